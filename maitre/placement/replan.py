"""Change a running plan for new rates, ranks and adapters, with few moves.

Two ways lead to a changed plan. The first changes the running assignment in place
(`maitre.placement.relocate`): few moves, but over many changes it drifts away from the fewest
servers. The second packs afresh and matches the new servers to the running ones
(`maitre.placement.match_servers`): the fewest servers, but more moves. The second is taken where
the first ends on more servers and the moves suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.diff import shares_by_adapter
from maitre.placement.evidence import Evidence
from maitre.placement.length_warnings import length_warnings
from maitre.placement.match_servers import match_servers
from maitre.placement.place import Model, bounds, capacity_of, packed
from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.placement.promise import Promise
from maitre.placement.relocate import Carried, carried_over, relocate, tolerated
from maitre.placement.replicas import as_is, fits_nowhere, replicated
from maitre.placement.servers import planned_servers, with_accepted_risks
from maitre.placement.settings import Constraints, PlacementError, PlacementSettings
from maitre.placement.simulate_plan import ServerCheck
from maitre.placement.split_hot import split_hot
from maitre.placement.verify_and_repair import (
    FIRST_RELIEF,
    JUDGED_MARGIN,
    REPAIR_ROUNDS,
    servers_to_simulate,
    simulate_servers,
)
from maitre.progress import Progress, ignore_progress
from maitre.twin import Lengths, ServerProfile
from maitre.twin.limits import VllmLimits

# A server is relieved only when its risk is this many times what it is packed to.
HYSTERESIS = 5.0
# A plan may have this many servers more than a fresh plan before a fresh packing replaces it,
# unless moves to close servers are allowed.
SERVERS_TO_SPARE = 1


@dataclass(frozen=True)
class MoveBudget:
    """How many adapters may move (`None`: no limit), and how many only to close servers.

    A move loads an adapter of the running plan on a server that does not hold it.
    """

    moves: int | None = None
    closing_moves: int = 0

    @property
    def most(self) -> float:
        """The most moves in all."""
        return np.inf if self.moves is None else self.moves


def replan(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: Model | None = None,
    promise: Promise | None = None,
    max_moves: int | None = None,
    max_closing_moves: int = 0,
    tolerated_risk: float | None = None,
    pins: Mapping[str, str] | None = None,
    lengths: Lengths | None = None,
) -> PlacementPlan:
    """Return the running plan changed for the catalogue, by the capacity model alone.

    Servers within `tolerated_risk` stay unchanged (default: `HYSTERESIS` times the promised risk).
    The others, the riskiest first, are reconfigured or give up the fewest adapters until they are
    within the promised risk. New adapters go where they cost least. An adapter that has grown
    hotter than a server is divided into replicas.

    At most `max_moves` adapters move (`None`: no limit); `max_closing_moves` of these moves may
    serve only to close servers. The evidence names the servers that stay over the tolerated risk
    because the moves do not suffice (`servers_over_risk`). `pins` (adapter to server) are moved
    first and then stay. Servers keep their names. They also keep their `max_cpu_loras` while it
    suffices, because a change would restart them. This function simulates nothing;
    `replan_and_check` does.

    Raises:
        CatalogueError, PlacementError: as `place`; pins to servers that the plan does not have.
    """
    planner = _Planner.of(
        plan, catalogue, profile, model, promise or Promise(), Constraints(pins or {}),
        MoveBudget(max_moves, max_closing_moves), tolerated_risk, lengths,
    )  # fmt: skip
    unchecked = PlacementSettings(planner.promise, 0.0, baselines=False)
    changes = list(planner.changes(unchecked))
    return planner.written(min(changes, key=planner.preference))


def replan_and_check(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    settings: PlacementSettings,
    budget: MoveBudget,
    *,
    model: Model | None = None,
    pins: Mapping[str, str] | None = None,
    lengths: Lengths | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """Plan again as `replan` does, simulate every server, and relieve servers that fail.

    Servers are simulated as by `maitre.placement.verify_and_repair`. The evidence names the servers
    that still fail when the moves or the rounds are spent (`servers_failed`, name to reason).

    Raises:
        CatalogueError, PlacementError: as `replan`.
    """
    planner = _Planner.of(
        plan, catalogue, profile, model, settings.promise, Constraints(pins or {}), budget, None,
        lengths,
    )  # fmt: skip
    changes = sorted(planner.changes(settings), key=planner.preference)
    if settings.check_duration_s == 0:
        return planner.written(changes[0])
    check = _Check(planner, settings, on_progress or ignore_progress)
    best: _Verified | None = None
    for change in changes:
        if best is not None and best.is_sound and best.change.servers <= change.servers:
            break
        found = check.until_healthy(change)
        if best is None or found.rating < best.rating:
            best = found
    assert best is not None
    return best.plan


@dataclass(frozen=True)
class _Change:
    """One way to change the plan: the assignment, how many adapters move, and how to make it anew.

    `again` repeats it with a limit on the fill of servers that failed in the twin. `judged`: some
    servers are fuller than the model is sure of.
    """

    carried: Carried
    found: Assignment
    kept: np.ndarray
    moves: int
    over: tuple[str, ...]
    names: tuple[str, ...]
    again: Callable[[np.ndarray], _Change] = field(repr=False)
    judged: bool = False

    @property
    def servers(self) -> int:
        """How many servers it needs."""
        return self.found.servers


@dataclass(frozen=True)
class _Planner:
    """A running plan, and everything that a change of it needs."""

    plan: PlacementPlan
    catalogue: AdapterCatalogue
    profile: ServerProfile
    capacity: Capacity
    promise: Promise
    constraints: Constraints
    budget: MoveBudget
    act_above: float
    lengths: Lengths
    running: Carried
    """The plan as it runs, for the new rates; pinned adapters are not moved yet."""

    @classmethod
    def of(
        cls,
        plan: PlacementPlan,
        catalogue: AdapterCatalogue,
        profile: ServerProfile,
        model: Model | None,
        promise: Promise,
        constraints: Constraints,
        budget: MoveBudget,
        tolerated_risk: float | None,
        lengths: Lengths | None,
    ) -> _Planner:
        """Check the inputs and carry the plan over to the catalogue."""
        catalogue.check(base_models={profile.base_model}, max_rank=profile.valid.max_lora_rank[1])
        constraints.check(catalogue)
        lengths = lengths or default_lengths()
        capacity = capacity_of(profile, model, promise, lengths)
        act_above = HYSTERESIS * promise.risk if tolerated_risk is None else tolerated_risk
        _check_pinned_servers(plan, constraints, catalogue)
        whole = as_is(catalogue, lengths, promise.rate_factor)
        running = carried_over(plan.servers, catalogue.names, whole, capacity)
        return cls(
            plan, catalogue, profile, capacity, promise, constraints, budget, act_above, lengths,
            running,
        )  # fmt: skip

    @cached_property
    def _bounds(self) -> tuple[int, int]:
        return bounds(self.catalogue, self.lengths, self.promise, self.capacity)

    def changes(self, settings: PlacementSettings) -> Iterator[_Change]:
        """Yield the ways to change the plan that the budget allows; in place is always one of them.

        With a check in the twin also one with servers fuller than the model is sure of, as in a new
        plan.
        """
        in_place = self.in_place()
        yield in_place
        if in_place.servers == 1 and not in_place.over:
            return
        demand = replicated(
            self.catalogue, self.lengths, self.capacity, self.promise.rate_factor, self.constraints
        )
        try:
            sure, fuller = packed(demand, self.capacity, settings, np.empty(0, dtype=np.int64))
        except PlacementError:
            # The pinned adapters fit their servers as they run, or in_place is over the risk.
            return
        spare = 0 if self.budget.closing_moves or in_place.over else SERVERS_TO_SPARE
        for found, judged in ((sure, False), (fuller, True)):
            if found and (in_place.over or in_place.servers > found.servers + spare):
                change = self.matched(found, demand, judged=judged)
                if self._is_allowed(change, in_place):
                    yield change

    def _is_allowed(self, change: _Change, in_place: _Change) -> bool:
        """Return whether the budget suffices; moves that avoid a new server close none."""
        if change.moves > self.budget.most:
            return False
        opens = in_place.servers > self.running.running
        only_closes = not opens and not in_place.over
        return not only_closes or change.moves - in_place.moves <= self.budget.closing_moves

    @staticmethod
    def preference(change: _Change) -> tuple[bool, int, bool, int]:
        """Return the sort key of a change: risk kept, few servers, certain ones, few moves."""
        return bool(change.over), change.servers, change.judged, change.moves

    def in_place(self, most_fill: np.ndarray | None = None) -> _Change:
        """Return the running assignment, changed only where necessary."""
        running = _with_pins(self.plan.servers, self.constraints)
        whole = as_is(self.catalogue, self.lengths, self.promise.rate_factor)
        carried = carried_over(running, self.catalogue.names, whole, self.capacity)
        carried = replace(
            carried,
            demand=_demand_with_pins(carried.demand, self.constraints, self.catalogue),
            held=self.running.held,
        )
        carried, hopeless = split_hot(carried, whole, self.capacity, self.act_above)
        if len(hopeless):
            raise fits_nowhere(self.catalogue, hopeless)
        return self._change_of(
            carried, most_fill, self.act_above, self.budget.closing_moves, self.in_place
        )

    def matched(
        self,
        fresh: Assignment,
        demand: Demand,
        most_fill: np.ndarray | None = None,
        *,
        judged: bool = False,
    ) -> _Change:
        """Return a fresh packing on the running servers; `judged`: by the twin, not the model."""
        number = {name: i for i, name in enumerate(self.running.names)}
        pinned_to = tuple(number[name] for name in self.constraints.pinned_servers)
        carried = match_servers(fresh, demand, self.running, self.capacity, pinned_to)

        def again(most_fill: np.ndarray) -> _Change:
            return self.matched(fresh, demand, most_fill, judged=judged)

        change = self._change_of(carried, most_fill, self.capacity.risk, 0, again)
        return replace(change, judged=judged)

    def _change_of(
        self,
        carried: Carried,
        most_fill: np.ndarray | None,
        act_above: float,
        closing_moves: int,
        again: Callable[[np.ndarray], _Change],
    ) -> _Change:
        moved = relocate(
            carried,
            self.capacity,
            tolerated_risk=act_above,
            moves=self.budget.moves,
            closing_moves=closing_moves,
            most_fill=most_fill,
        )
        kept, server = np.unique(moved.server, return_inverse=True)
        choice = self.capacity.best(carried.demand.sums(server, len(kept)), moved.rows[kept])
        limit = np.zeros(int(kept.max()) + 1)
        limit[: len(carried.accepted_risk)] = carried.accepted_risk[: len(limit)]
        limit = np.maximum(limit[kept], self.promise.risk)
        names = tuple(self._name(i) for i in kept.tolist())
        too_risky = choice.risk > tolerated(limit, self.promise.risk, act_above)
        return _Change(
            carried,
            Assignment(server, choice.rows, choice.risk, choice.fill),
            kept,
            moved.moves,
            tuple(names[i] for i in np.flatnonzero(too_risky)),
            names,
            again,
        )

    def _name(self, i: int) -> str:
        """Return the name of server i: that of the running one, else a new name."""
        taken = self.running.names
        if i < len(taken):
            return taken[i]
        while (name := f"{self.profile.base_model}-{i:04d}") in taken:
            i += len(taken)
        return name

    def written(self, change: _Change) -> PlacementPlan:
        """Return the change as a plan."""
        written = planned_servers(
            change.found,
            change.carried.demand,
            self.catalogue,
            self.profile,
            self.capacity,
            change.names,
            self.promise,
        )
        accepted = {
            name: float(change.carried.accepted_risk[i])
            for name, i in zip(change.names, change.kept.tolist(), strict=True)
            if i < len(change.carried.accepted_risk) and change.carried.accepted_risk[i] > 0
        }
        servers = with_accepted_risks(_with_running_cpu_slots(self.plan, written), accepted)
        as_told, promised = self._bounds
        return PlacementPlan(
            self.profile.name,
            servers,
            min(as_told, len(servers)),
            {},
            Evidence(
                promise=self.promise,
                profile_fingerprint=self.profile.fingerprint(),
                lower_bound_gpus_with_headroom=min(promised, len(servers)),
                servers_checked=0,
                servers_over_risk=change.over,
                warnings=length_warnings(servers, self.catalogue, self.profile, self.lengths)
                or None,
            ),
        )


@dataclass(frozen=True)
class _Verified:
    """A change after its check."""

    change: _Change
    plan: PlacementPlan

    @property
    def is_sound(self) -> bool:
        """Whether all of its servers are healthy."""
        return not self.plan.evidence.servers_failed

    @property
    def rating(self) -> tuple[int, int, int]:
        """The smaller the better: failing servers, servers, moves."""
        failed = self.plan.evidence.servers_failed or {}
        return len(failed), self.change.servers, self.change.moves


@dataclass
class _Check:
    """Simulates changes; a server that was healthy once is not simulated again."""

    planner: _Planner
    settings: PlacementSettings
    report: Progress
    passed: set[tuple[str, VllmLimits, tuple[AdapterShare, ...], float]] = field(
        default_factory=set
    )

    def until_healthy(self, change: _Change) -> _Verified:
        """Check and relieve servers by turns, until all are healthy or no change helps any more."""
        margin = JUDGED_MARGIN if change.judged else 0.0
        most_fill = np.full(len(change.carried.rows) + len(self.planner.catalogue), np.inf)
        best: _Verified | None = None
        for round_ in range(REPAIR_ROUNDS):
            plan, failed = self._simulate_change(change, margin, round_)
            found = _Verified(change, plan)
            if best is None or found.rating < best.rating:
                best = found
            if not failed:
                break
            # Each round takes more, so that the rounds come to an end.
            relief = min(FIRST_RELIEF * 2 ** (round_ // 2), 0.5)
            number = dict(zip(change.names, change.kept.tolist(), strict=True))
            fill = dict(zip(change.names, change.found.fill.tolist(), strict=True))
            for check in failed:
                most_fill[number[check.server]] = fill[check.server] * (1 - relief)
            again = change.again(most_fill)
            if again.moves > self.planner.budget.most or _is_same(again, change):
                break
            change = again
        assert best is not None
        return best

    def _simulate_change(
        self, change: _Change, margin: float, round_: int
    ) -> tuple[PlacementPlan, list[ServerCheck]]:
        """Return the change as a plan with the twin's evidence, and the servers that fail."""
        plan, settings = self.planner.written(change), self.settings
        places = servers_to_simulate(change.found.risk, settings.check_servers)
        factor = self.planner.promise.rate_factor * (1 + margin)
        todo = [i for i in places if _content(plan.servers[i], factor) not in self.passed]
        done = len(places) - len(todo)
        checks = simulate_servers(
            [plan.servers[i] for i in todo],
            todo,
            self.planner.profile,
            self.planner.catalogue,
            settings,
            self.planner.lengths,
            margin=margin,
            on_progress=lambda some, _total, _="": self.report(done + some, len(places), "check"),
        )
        failed = [check for check in checks if not check.health.healthy]
        self.passed |= {
            _content(plan.servers[i], factor)
            for i, check in zip(todo, checks, strict=True)
            if check.health.healthy
        }
        evidence = replace(
            plan.evidence,
            servers_checked=len(places),
            check_passed=not failed,
            servers_failed={check.server: check.health.reason for check in failed},
            rounds_of_repair=round_ or None,
            rate_factor=round(factor, 6),
            duration_s=settings.check_duration_s,
            seed=settings.seed,
        )
        return replace(plan, evidence=evidence), failed


def _content(
    server: PlannedServer, factor: float
) -> tuple[str, VllmLimits, tuple[AdapterShare, ...], float]:
    return server.name, server.config, server.adapters, factor


def _is_same(one: _Change, other: _Change) -> bool:
    return bool(
        np.array_equal(one.found.server, other.found.server)
        and np.array_equal(one.found.rows, other.found.rows)
    )


def _check_pinned_servers(
    plan: PlacementPlan, constraints: Constraints, catalogue: AdapterCatalogue
) -> None:
    names = {server.name for server in plan.servers}
    unknown = [
        f"pin: adapter {adapter!r} to server {server!r}, which the running plan does not have"
        for adapter, server in constraints.pins.items()
        if server not in names
    ]
    if unknown:
        raise CatalogueError(catalogue.source, unknown)


def _with_pins(
    running: tuple[PlannedServer, ...], constraints: Constraints
) -> tuple[PlannedServer, ...]:
    """Return the running servers with pinned adapters where they are pinned to."""
    if not constraints.pins:
        return running
    placed = shares_by_adapter(running)
    loose = {
        adapter
        for adapter, server in constraints.pins.items()
        if server not in placed.get(adapter, {})
    }
    servers = []
    for server in running:
        stay = [held for held in server.adapters if held.adapter not in loose]
        join = [a for a in sorted(loose) if constraints.pins[a] == server.name]
        servers.append(replace(server, adapters=(*stay, *(AdapterShare(a) for a in join))))
    return tuple(servers)


def _demand_with_pins(
    demand: Demand, constraints: Constraints, catalogue: AdapterCatalogue
) -> Demand:
    """Return the demand with the parts of pinned adapters marked, so that they stay in place."""
    if not constraints.pins:
        return demand
    return replace(demand, pin=constraints.pin_numbers(catalogue)[demand.adapter])


def _with_running_cpu_slots(
    plan: PlacementPlan, servers: tuple[PlannedServer, ...]
) -> tuple[PlannedServer, ...]:
    """Return the servers; keep a running `max_cpu_loras` where no other limit changes."""
    running = {server.name: server.config for server in plan.servers}
    kept = []
    for server in servers:
        was = running.get(server.name)
        enough = was is not None and was.max_cpu_loras >= len(server.adapters)
        if was is not None and enough and _but_cpu(was) == _but_cpu(server.config):
            server = replace(server, config=was)
        kept.append(server)
    return tuple(kept)


def _but_cpu(config: VllmLimits) -> VllmLimits:
    return replace(config, max_cpu_loras=config.max_loras)
