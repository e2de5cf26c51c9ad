"""Simulates a plan's servers and relieves those that fail, until none does."""

from __future__ import annotations

from collections.abc import Sequence
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
from maitre.placement.servers import planned_servers, with_accepted_risks
from maitre.placement.settings import PlacementError, PlacementSettings
from maitre.placement.tighten import judged_by_twin
from maitre.progress import Progress
from maitre.twin import Lengths, ServerProfile

REPAIR_ROUNDS = 10
FIRST_RELIEF = 0.04
# What servers fuller than the model is sure of have to bear beyond the promised rates. Near the
# limit a few percent of load decide, and the luck of an hour is worth about one.
JUDGED_ROUNDS = 3
JUDGED_MARGIN = 0.02


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
        if self.settings.check_duration_s == 0:
            return Verified(found, self.written(found), {"servers_checked": 0})
        verified, failures = self._until_healthy(found, self.capacity, REPAIR_ROUNDS)
        if verified is None:
            raise PlacementError(
                f"after {REPAIR_ROUNDS} rounds of repair these servers still fail in the twin: "
                + "; ".join(f"{check.server} {check.health.reason}" for check in failures[:5])
            )
        return verified

    def judge(self, found: Assignment, most_servers: int) -> Verified | None:
        """`verify` for servers of which the model is not sure; `None` if they are not all healthy.

        Every server is simulated at rates `JUDGED_MARGIN` above those promised. Those that fail are
        relieved as long as `most_servers` suffice.
        """
        wide = judged_by_twin(self.capacity)
        return self._until_healthy(
            found, wide, JUDGED_ROUNDS, most_servers=most_servers, margin=JUDGED_MARGIN
        )[0]

    def _until_healthy(
        self,
        found: Assignment,
        capacity: Capacity,
        rounds: int,
        *,
        most_servers: int | None = None,
        margin: float = 0.0,
    ) -> tuple[Verified | None, list[ServerCheck]]:
        """Check and relieve in turn; nothing and what failed when the rounds or servers run out."""
        servers = self.written(found)
        passed: set[Any] = set()
        wanted = self._sample(found)
        failures: list[ServerCheck] = []
        for round_ in range(rounds):
            todo = [i for i in wanted if _content(servers[i]) not in passed]
            self.report(len(wanted) - len(todo), len(wanted), "check")
            checks = self._check([servers[i] for i in todo], todo, margin)
            failures = [check for check in checks if not check.health.healthy]
            failed = [i for i, check in zip(todo, checks, strict=True) if not check.health.healthy]
            passed |= {_content(servers[i]) for i in todo if i not in failed}
            self.report(len(wanted) - len(failed), len(wanted), "check")
            if not failed:
                evidence = self._evidence(len(passed), round_, margin)
                if margin:
                    servers = with_accepted_risks(servers, self._accepted(found, servers))
                return Verified(found, servers, evidence), []
            around = {j for i in failed for j in range(i - 2, i + 3) if 0 <= j < len(servers)}
            before = {_content(server) for server in servers}
            # Each round takes more, so that the rounds come to an end.
            relief = min(FIRST_RELIEF * 2 ** (round_ // 2), 0.5)
            found = relieve(found, np.array(failed), self.demand, capacity, part=relief)
            if most_servers is not None and found.servers > most_servers:
                break
            servers = self.written(found)
            changed = {i for i, s in enumerate(servers) if _content(s) not in before}
            kept = {i for i in wanted if i < len(servers)}
            wanted = sorted(kept | changed | {i for i in around if i < len(servers)})
        return None, failures

    def _accepted(self, found: Assignment, servers: Sequence[PlannedServer]) -> dict[str, float]:
        risks = zip(servers, found.risk.tolist(), strict=True)
        return {server.name: risk for server, risk in risks if risk > self.capacity.risk}

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

    def _check(
        self, servers: list[PlannedServer], places: list[int], margin: float
    ) -> list[ServerCheck]:
        settings = self.settings
        return check_servers(
            servers,
            self.profile,
            self.catalogue,
            [settings.seed + i for i in places],
            settings.check_duration_s,
            rate_factor=(1 + settings.headroom) * (1 + margin),
            rule=HealthRule(ttft_slo_ms=settings.ttft_slo_ms),
            lengths=self.lengths,
            workers=settings.workers,
        )

    def _evidence(self, checked: int, repairs: int, margin: float) -> dict[str, Any]:
        return {
            "servers_checked": checked,
            "rounds_of_repair": repairs,
            "rate_factor": round((1 + self.settings.headroom) * (1 + margin), 6),
            "duration_s": self.settings.check_duration_s,
            "seed": self.settings.seed,
            "filled_by": "twin" if margin else "model",
        }


def _content(server: PlannedServer) -> Any:
    return tuple(sorted(server.config.items())), server.adapters
