"""Simulates a plan's servers and relieves those that fail, until none does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.maxpack.health import HealthRule
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain import Assignment
from maitre.placement.check import ServerCheck, check_servers
from maitre.placement.demand import Demand
from maitre.placement.plan import PlannedServer
from maitre.placement.repair import relieve
from maitre.placement.servers import planned_servers
from maitre.placement.settings import PlacementError, PlacementSettings
from maitre.twin import Lengths, ServerProfile

Progress = Callable[[str, int, int], None]

REPAIR_ROUNDS = 10
FIRST_RELIEF = 0.04


@dataclass(frozen=True)
class Verified:
    """An assignment whose servers passed, written out, and how that was found."""

    found: Assignment
    servers: tuple[PlannedServer, ...]
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Verifier:
    """Everything that a check of one base model's servers needs."""

    demand: Demand
    catalogue: AdapterCatalogue
    profile: ServerProfile
    capacity: Capacity
    settings: PlacementSettings
    lengths: Lengths
    names: tuple[str, ...]
    report: Progress

    def verify(self, found: Assignment) -> Verified:
        """Check the servers, relieve those that fail, and check what that changed.

        All servers of a small plan; of a large one `check_servers` of them, spread over the plan
        (neighbours are alike) with the riskiest among them. Beside a server that fails, the
        neighbours are checked too.

        Raises:
            PlacementError: some server fails after `REPAIR_ROUNDS` rounds.
        """
        servers = self.written(found)
        if self.settings.check_duration_s == 0:
            return Verified(found, servers, {"servers_checked": 0})
        passed: set[Any] = set()
        wanted = self._sample(found)
        failures: list[ServerCheck] = []
        for round_ in range(REPAIR_ROUNDS):
            todo = [i for i in wanted if _content(servers[i]) not in passed]
            self.report("check", len(wanted) - len(todo), len(wanted))
            checks = self._check([servers[i] for i in todo], todo)
            failed = [i for i, check in zip(todo, checks, strict=True) if not check.health.healthy]
            failures = [check for check in checks if not check.health.healthy]
            passed |= {_content(servers[i]) for i in todo if i not in failed}
            self.report("check", len(wanted) - len(failed), len(wanted))
            if not failed:
                return Verified(found, servers, self._evidence(len(passed), round_))
            around = {j for i in failed for j in range(i - 2, i + 3) if 0 <= j < len(servers)}
            before = {_content(server) for server in servers}
            # Each round takes more, so that the rounds come to an end.
            relief = min(FIRST_RELIEF * 2 ** (round_ // 2), 0.5)
            found = relieve(found, np.array(failed), self.demand, self.capacity, part=relief)
            servers = self.written(found)
            changed = {i for i, s in enumerate(servers) if _content(s) not in before}
            kept = {i for i in wanted if i < len(servers)}
            wanted = sorted(kept | changed | {i for i in around if i < len(servers)})
        raise PlacementError(
            f"after {REPAIR_ROUNDS} rounds of repair these servers still fail in the twin: "
            + "; ".join(f"{check.server} {check.health.reason}" for check in failures[:5])
        )

    def written(self, found: Assignment) -> tuple[PlannedServer, ...]:
        """The assignment as servers."""
        return planned_servers(
            found,
            self.demand,
            self.catalogue,
            self.profile,
            self.capacity,
            self.names,
            self.settings.headroom,
        )

    def _sample(self, found: Assignment) -> list[int]:
        most = self.settings.check_servers
        if found.servers <= most:
            return list(range(found.servers))
        spread = np.linspace(0, found.servers - 1, max(most * 3 // 4, 1)).round().astype(int)
        riskiest = np.argsort(-found.risk, kind="stable")[: most // 4]
        return np.unique(np.concatenate([spread, riskiest])).tolist()

    def _check(self, servers: list[PlannedServer], places: list[int]) -> list[ServerCheck]:
        settings = self.settings
        return check_servers(
            servers,
            self.profile,
            self.catalogue,
            [settings.seed + i for i in places],
            settings.check_duration_s,
            rate_factor=1 + settings.headroom,
            rule=HealthRule(ttft_slo_ms=settings.ttft_slo_ms),
            lengths=self.lengths,
            workers=settings.workers,
        )

    def _evidence(self, checked: int, repairs: int) -> dict[str, Any]:
        return {
            "servers_checked": checked,
            "rounds_of_repair": repairs,
            "rate_factor": 1 + self.settings.headroom,
            "duration_s": self.settings.check_duration_s,
            "seed": self.settings.seed,
        }


def _content(server: PlannedServer) -> Any:
    return tuple(sorted(server.config.items())), server.adapters
