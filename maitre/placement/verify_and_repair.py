"""Simulate a plan's servers in the twin and move load off those that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.evidence import Evidence
from maitre.placement.length_warnings import length_warnings
from maitre.placement.planned_server import PlannedServer
from maitre.placement.remove_server import judged_by_twin
from maitre.placement.servers import planned_servers, with_accepted_risks
from maitre.placement.settings import PlacementError, PlacementSettings
from maitre.placement.simulate_plan import ServerCheck, check_servers
from maitre.progress import Progress
from maitre.twin import Lengths, ServerProfile

REPAIR_ROUNDS = 10
FIRST_RELIEF = 0.04
# The number of servers, the emptiest first, that are tried as receivers of a part.
_RECEIVERS = 64
# What servers fuller than the model is sure of have to bear beyond the promised rates. Near the
# limit a few percent of load decide, and the luck of an hour is worth about one.
JUDGED_ROUNDS = 3
JUDGED_MARGIN = 0.02


@dataclass(frozen=True)
class Verified:
    """An assignment whose servers passed, written out, and how that was found."""

    found: Assignment
    servers: tuple[PlannedServer, ...]
    evidence: Evidence


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

        In a small plan all servers are checked. In a large plan `check_servers` servers are
        checked: the riskiest, and some spread over the plan, as neighbours are alike. The
        neighbours of a server that fails are checked too.

        Raises:
            PlacementError: some server fails after `REPAIR_ROUNDS` rounds.
        """
        if self.settings.check_duration_s == 0:
            return Verified(found, self.written(found), Evidence(servers_checked=0))
        verified, failures = self._until_healthy(found, self.capacity, REPAIR_ROUNDS)
        if verified is None:
            raise PlacementError(self._no_plan(found, failures))
        return verified

    def _no_plan(self, found: Assignment, failures: Sequence[ServerCheck]) -> str:
        """Return the message that names the failing servers, the likely cause, and the way out."""
        failed = "; ".join(f"{check.server} {check.health.reason}" for check in failures[:5])
        warnings = length_warnings(self.written(found), self.catalogue, self.profile, self.lengths)
        cause = warnings or (
            "the capacity model expects more of these servers than the twin delivers: fit it on "
            "traces of such adapters",
        )
        promise = self.settings.promise
        return (
            f"after {REPAIR_ROUNDS} rounds of repair these servers still fail in the twin: "
            f"{failed}. Cause: {'; '.join(cause)}. Way out: a headroom above "
            f"{promise.headroom:g} (--headroom), a time to first token above "
            f"{promise.ttft_slo_ms / 1000:g} s (--ttft-slo), or shorter requests"
        )

    def judge(self, found: Assignment, most_servers: int) -> Verified | None:
        """Verify servers of which the model is not sure; return `None` unless all are healthy.

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
        """Check and relieve servers by turns; return the result, or `None` and what still fails."""
        servers = self.written(found)
        passed: set[Any] = set()
        wanted = servers_to_simulate(found.risk, self.settings.check_servers)
        failures: list[ServerCheck] = []
        for round_ in range(rounds):
            todo = [i for i in wanted if _content(servers[i]) not in passed]
            self.report(len(wanted) - len(todo), len(wanted), "check")
            checks = simulate_servers(
                [servers[i] for i in todo],
                todo,
                self.profile,
                self.catalogue,
                self.settings,
                self.lengths,
                margin=margin,
            )
            failures = [check for check in checks if not check.health.healthy]
            failed = [i for i, check in zip(todo, checks, strict=True) if not check.health.healthy]
            passed |= {_content(servers[i]) for i in todo if i not in failed}
            self.report(len(wanted) - len(failed), len(wanted), "check")
            if not failed:
                evidence = self._evidence(len(passed), round_, margin)
                if margin:
                    servers = with_accepted_risks(servers, self._risks_to_accept(found, servers))
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

    def _risks_to_accept(
        self, found: Assignment, servers: Sequence[PlannedServer]
    ) -> dict[str, float]:
        risks = zip(servers, found.risk.tolist(), strict=True)
        return {server.name: risk for server, risk in risks if risk > self.capacity.risk}

    def written(self, found: Assignment) -> tuple[PlannedServer, ...]:
        """Return the assignment as servers."""
        return planned_servers(
            found,
            self.demand,
            self.catalogue,
            self.profile,
            self.capacity,
            self.names,
            self.settings.promise,
        )

    def _evidence(self, checked: int, repairs: int, margin: float) -> Evidence:
        return Evidence(
            servers_checked=checked,
            rounds_of_repair=repairs,
            rate_factor=round(self.settings.promise.rate_factor * (1 + margin), 6),
            duration_s=self.settings.check_duration_s,
            seed=self.settings.seed,
            filled_by="twin" if margin else "model",
        )


def _content(server: PlannedServer) -> Any:
    return server.config, server.adapters


def simulate_servers(
    servers: Sequence[PlannedServer],
    places: Sequence[int],
    profile: ServerProfile,
    catalogue: AdapterCatalogue,
    settings: PlacementSettings,
    lengths: Lengths,
    *,
    margin: float = 0.0,
    on_progress: Progress | None = None,
) -> list[ServerCheck]:
    """Simulate some servers of a plan at the promised rates, `margin` above them.

    `places` are their positions in the plan: the server at position i is simulated under the
    settings' seed + i.

    Raises:
        CatalogueError: a server holds adapters that the catalogue does not know.
    """
    return check_servers(
        servers,
        profile,
        catalogue,
        [settings.seed + i for i in places],
        settings.check_duration_s,
        rate_factor=settings.promise.rate_factor * (1 + margin),
        rule=settings.promise.rule,
        lengths=lengths,
        workers=settings.workers,
        on_progress=on_progress,
    )


def servers_to_simulate(risks: np.ndarray, most: int) -> list[int]:
    """Return which servers to simulate, `most` at most: the riskiest, and some of all others.

    `risks` has one risk per server, in the plan's order, in which neighbours are alike.
    """
    if len(risks) <= most:
        return list(range(len(risks)))
    order = np.argsort(-risks, kind="stable")
    riskiest, others = order[: -(-most // 4)], np.sort(order[-(-most // 4) :])
    spread = others[np.linspace(0, len(others) - 1, most - len(riskiest)).round().astype(int)]
    return sorted({*riskiest.tolist(), *spread.tolist()})


def relieve(
    found: Assignment,
    failed: np.ndarray,
    demand: Demand,
    capacity: Capacity,
    *,
    part: float = 0.04,
) -> Assignment:
    """Move parts off the failed servers: to others with room, else to a new server.

    Each gives up about `part` of its rate, in adapters of middling rate. Servers that failed
    receive nothing.
    """
    server = found.server.copy()
    count = found.servers
    sums = demand.sums(server, count)
    open_to = np.ones(count, dtype=bool)
    open_to[failed] = False
    for i in failed:
        for moved in _parts_to_give_up(np.flatnonzero(server == i), demand, part):
            term, rank = demand.terms[moved], demand.rank[moved]
            # Replicas of one adapter keep servers of their own.
            allowed = open_to.copy()
            allowed[server[demand.adapter == demand.adapter[moved]]] = False
            candidates = np.flatnonzero(allowed)
            target = _emptiest(sums, candidates, term, rank, capacity)
            if target is None:
                target, count = count, count + 1
                open_to = np.append(open_to, True)
                sums = SetSums(
                    np.vstack([sums.sums, np.zeros((1, sums.sums.shape[1]))]),
                    np.append(sums.max_rank, 0),
                    np.append(sums.max_rate_rps, 0.0),
                )
            server[moved] = target
            grown = sums.take(np.array([target])).plus(term, rank)
            sums.sums[target] = grown.sums[0]
            sums.max_rank[target] = grown.max_rank[0]
            sums.max_rate_rps[target] = grown.max_rate_rps[0]
    return Assignment.judged(server, demand, capacity)


def _emptiest(
    sums: SetSums, candidates: np.ndarray, term: np.ndarray, rank: np.ndarray, capacity: Capacity
) -> int | None:
    """Return the fitting candidate that the part leaves emptiest: it must not fail next."""
    if not len(candidates):
        return None
    load = sums.column("output_tps")[candidates]
    some = candidates[np.argsort(load, kind="stable")[:_RECEIVERS]]
    choice = capacity.best(sums.take(some).plus(term, rank))
    fits = choice.risk <= capacity.risk
    if not fits.any():
        return None
    return int(some[np.argmin(np.where(fits, choice.fill, np.inf))])


def _parts_to_give_up(parts: np.ndarray, demand: Demand, part: float) -> np.ndarray:
    """Return the parts of adapters that a server gives up: together about `part` of its rate."""
    parts = parts[~demand.is_pinned[parts]]
    if len(parts) <= 1:
        return parts[:0]
    rates = demand.rate_rps[parts]
    # Middling parts: the coldest relieve nothing, the hottest are hard to house.
    order = np.argsort(np.abs(np.log(np.maximum(rates, 1e-9)) - np.log(rates.mean() + 1e-9)))
    total = np.cumsum(rates[order])
    enough = int(np.searchsorted(total, part * rates.sum())) + 1
    return parts[order[: min(enough, len(parts) - 1)]]
