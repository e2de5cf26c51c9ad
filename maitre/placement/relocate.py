"""Change an assignment for new rates, ranks and adapters, moving few adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.demand import Demand
from maitre.placement.planned_server import PlannedServer

NEW = -1
# No server stays that is more likely than this to fail, however full the twin has let it be.
MOST_TOLERATED = 0.5
# Servers that are considered for another configuration so that they take a part: the emptiest.
RECEIVERS = 64
# After this many servers in a row that cannot be emptied, no further server is tried.
CLOSING_TRIES = 8


@dataclass(frozen=True)
class Carried:
    """A running plan under new rates: parts with their servers, and the servers' configurations.

    `server` is `NEW` for adapters that no server holds yet; `names` are the servers' names;
    `accepted_risk` is the risk that the twin let them be filled to
    (`maitre.placement.remove_server`), else 0. `held` says which adapter (row) each running server
    (column) holds: elsewhere the adapter must be loaded, which is a move. Servers after the columns
    of `held` do not run yet.
    """

    demand: Demand
    server: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]
    accepted_risk: np.ndarray
    held: np.ndarray

    @property
    def running(self) -> int:
        """How many servers run: the first ones."""
        return self.held.shape[1]


def carried_over(
    running: Sequence[PlannedServer], names: np.ndarray, whole: Demand, capacity: Capacity
) -> Carried:
    """Return running servers under new rates: `whole` has one part per adapter, called `names`.

    Adapters that are not in the catalogue are dropped. A configuration that is not among the
    capacity's options becomes the smallest option that holds it.
    """
    place = {str(name): i for i, name in enumerate(names)}
    adapter, share, server = [], [], []
    held: set[int] = set()
    for i, planned in enumerate(running):
        for part in planned.adapters:
            if part.adapter in place:
                adapter.append(place[part.adapter])
                share.append(part.share)
                server.append(i)
                held.add(place[part.adapter])
    for i in range(len(whole)):
        if i not in held:
            adapter.append(i)
            share.append(1.0)
            server.append(NEW)
    demand = Demand.of_shares(whole, np.array(adapter), np.array(share))
    rows = np.array(
        [
            _row(capacity, planned.config.max_loras, planned.config.max_lora_rank)
            for planned in running
        ]
    )
    servers = tuple(planned.name for planned in running)
    accepted_risk = np.array([planned.accepted_risk for planned in running])
    held_by = np.array(server, dtype=np.int64)
    on = held_by != NEW
    holds = np.zeros((len(whole), len(servers)), dtype=bool)
    holds[demand.adapter[on], held_by[on]] = True
    return Carried(demand, held_by, rows, servers, accepted_risk, holds)


@dataclass(frozen=True)
class Moved:
    """The outcome: each part's server, the servers' rows, and how many adapters move."""

    server: np.ndarray
    rows: np.ndarray
    moves: int


def relocate(
    carried: Carried,
    capacity: Capacity,
    *,
    tolerated_risk: float | None = None,
    moves: int | None = None,
    closing_moves: int = 0,
    most_fill: np.ndarray | None = None,
) -> Moved:
    """Keep what still fits; else reconfigure; else move the fewest adapters; then close servers.

    A server within `tolerated_risk` (default: the capacity's own) stays unchanged, however
    unbalanced: moves cost more than balance is worth. A server over that risk tries its other
    configurations first, which moves nothing. Then it gives up parts, those that relieve it most
    first, until it is within the capacity's risk again. The parts go to the servers where they cost
    least, or to a new one. The gap between the two risks keeps a server from moving parts each time
    that rates change a little. Both risks are higher, in proportion, on servers that the twin has
    let be fuller. The riskiest servers come first.

    `most_fill` limits the fill of the first servers, in addition to their risk, for those that
    failed in the twin. At most `moves` adapters move (`carried.held`); `closing_moves` of these
    moves may serve only to close servers.
    """
    state = _State(carried, capacity, len(carried.held) if moves is None else moves, most_fill)
    for part in np.flatnonzero(state.server == NEW):
        state.house(int(part), banned=())
    act_above = tolerated(state.limit, capacity.risk, tolerated_risk or 0.0)
    too_full = state.fill > state.most_fill
    for i in np.argsort(-state.risk, kind="stable").tolist():
        if state.risk[i] > act_above[i] or too_full[i]:
            state.relieve(i)
    state.close(closing_moves)
    return state.outcome()


def tolerated(limits: np.ndarray, risk: float, tolerated_risk: float) -> np.ndarray:
    """Return the risk above which each server is relieved.

    `tolerated_risk` is that of a server with the limit `risk`.
    """
    hysteresis = max(1.0, tolerated_risk / risk)
    return np.maximum(limits, np.minimum(limits * hysteresis, MOST_TOLERATED))


class _State:
    """The assignment while parts move; sums are kept up to date part by part."""

    def __init__(
        self, carried: Carried, capacity: Capacity, moves: int, most_fill: np.ndarray | None
    ) -> None:
        self.demand, self.capacity = carried.demand, capacity
        self.held, self.running = carried.held, carried.running
        self.most_moves = moves
        self.server = carried.server.copy()
        self.count = len(carried.rows)
        known = self.server != NEW
        self.sums = SetSums.of_groups(
            self.demand.terms[known], self.demand.rank[known], self.server[known], self.count
        )
        # The risk up to which each server is filled.
        self.limit = np.maximum(carried.accepted_risk, capacity.risk)
        self.most_fill = np.full(self.count, np.inf)
        self.later_most_fill = np.empty(0)
        if most_fill is not None:
            self.most_fill[: len(most_fill)] = most_fill[: self.count]
            self.later_most_fill = most_fill[self.count :]
        self.largest_rank = int(self.demand.rank.max(initial=1))
        choice = capacity.best(self.sums, carried.rows)
        self.rows = carried.rows.copy()
        self.risk, self.fill = choice.risk.copy(), choice.fill.copy()

    def is_home(self, part: int, server: int) -> bool:
        """Return whether the adapter of this part is loaded on this server already."""
        return server < self.running and bool(self.held[self.demand.adapter[part], server])

    def movers(self) -> np.ndarray:
        """Return whether each adapter of the running plan has to be loaded elsewhere."""
        placed = self.server != NEW
        adapter, server = self.demand.adapter[placed], self.server[placed]
        runs = server < self.running
        away = np.ones(len(adapter), dtype=bool)
        away[runs] = ~self.held[adapter[runs], server[runs]]
        moved = np.zeros(len(self.held), dtype=bool)
        moved[adapter[away]] = True
        return moved & self.held.any(axis=1)

    def may_move(self, part: int) -> bool:
        """Return whether the moves suffice to take this part anywhere."""
        adapter = int(self.demand.adapter[part])
        movers = self.movers()
        return bool(
            movers[adapter] or not self.held[adapter].any() or movers.sum() < self.most_moves
        )

    def set_of(self, i: int) -> SetSums:
        return self.sums.take(np.array([i]))

    def refresh(self, i: int) -> None:
        parts = np.flatnonzero(self.server == i)
        zero = np.zeros(len(parts), dtype=np.int64)
        fresh = SetSums.of_groups(self.demand.terms[parts], self.demand.rank[parts], zero, 1)
        self.sums.sums[i] = fresh.sums[0]
        self.sums.max_rank[i] = fresh.max_rank[0]
        self.sums.max_rate_rps[i] = fresh.max_rate_rps[0]
        choice = self.capacity.best(fresh, self.rows[i : i + 1])
        self.risk[i], self.fill[i] = choice.risk[0], choice.fill[0]

    def is_over(self, i: int) -> bool:
        return bool(self.risk[i] > self.limit[i] or self.fill[i] > self.most_fill[i])

    def reconfigure(self, i: int) -> None:
        choice = self.capacity.best(self.set_of(i))
        if choice.risk[0] < self.risk[i]:
            self.rows[i] = choice.rows[0]
            self.risk[i], self.fill[i] = choice.risk[0], choice.fill[0]

    def target(
        self, part: int, banned: tuple[int, ...], *, joins_replica: bool = False
    ) -> tuple[int, int] | None:
        """Return the server where the part costs the least fill, and its configuration.

        Servers keep their configurations if one takes the part without a change; else one of the
        emptiest is reconfigured. `None` where no server takes the part. With `joins_replica` the
        part may go to a server that holds another replica of its adapter.
        """
        allowed = np.ones(self.count, dtype=bool)
        same = self.server[self.demand.adapter == self.demand.adapter[part]]
        if not joins_replica:
            allowed[same[same != NEW]] = False
        allowed[list(banned)] = False
        candidates = np.flatnonzero(allowed)
        if len(candidates) == 0:
            return None
        for reconfigured in (False, True):
            if reconfigured:
                order = np.argsort(self.fill[candidates], kind="stable")
                candidates = candidates[order[:RECEIVERS]]
            grown = self.sums.take(candidates).plus(self.demand.terms[part], self.demand.rank[part])
            choice = self.capacity.best(grown, None if reconfigured else self.rows[candidates])
            fits = choice.risk <= self.limit[candidates]
            fits &= choice.fill <= self.most_fill[candidates]
            if fits.any():
                best = int(np.argmin(np.where(fits, choice.fill - self.fill[candidates], np.inf)))
                return int(candidates[best]), int(choice.rows[best])
        return None

    def put(self, part: int, target: int, row: int) -> None:
        source = int(self.server[part])
        self.server[part] = target
        self.rows[target] = row
        self.refresh(target)
        if source not in (NEW, target):
            self.refresh(source)

    def house(self, part: int, banned: tuple[int, ...]) -> None:
        """Put the part where it costs least, or on a new server."""
        found = self.target(part, banned)
        self.put(part, *(found or self.opened()))

    def opened(self) -> tuple[int, int]:
        """Open a server sized for further adapters; return its number and configuration row."""
        row = _row(self.capacity, 64, self.largest_rank)
        self.sums = SetSums(
            np.vstack([self.sums.sums, np.zeros((1, self.sums.sums.shape[1]))]),
            np.append(self.sums.max_rank, 0),
            np.append(self.sums.max_rate_rps, 0.0),
        )
        self.rows = np.append(self.rows, row)
        self.risk, self.fill = np.append(self.risk, 0.0), np.append(self.fill, 0.0)
        self.limit = np.append(self.limit, self.capacity.risk)
        later, self.later_most_fill = self.later_most_fill[:1], self.later_most_fill[1:]
        self.most_fill = np.append(self.most_fill, later if len(later) else np.inf)
        self.count += 1
        return self.count - 1, row

    def relieve(self, i: int) -> None:
        """Bring server i within its limits: by another configuration, else by moves."""
        as_configured = self.rows[i], self.risk[i], self.fill[i]
        self.reconfigure(i)
        if self.is_over(i):
            # A few adapters of too large a rank rather leave than change what all others share.
            self.rows[i], self.risk[i], self.fill[i] = as_configured
            self.evict_misfits(i)
            if self.is_over(i):
                self.reconfigure(i)
        self.unload(i)

    def evict_misfits(self, i: int) -> None:
        """Move parts of a rank above the server's own to servers that take them, if any do."""
        largest = self.capacity.options.max_lora_rank[self.rows[i]]
        misfits = (self.server == i) & (self.demand.rank > largest) & ~self.demand.is_pinned
        for part in np.flatnonzero(misfits).tolist():
            found = self.target(part, (i,)) if self.may_move(part) else None
            if found is None:
                return
            self.put(part, *found)

    def unload(self, i: int) -> None:
        """Move parts off server i until it is within its limits or the moves are spent."""
        while self.is_over(i):
            held = np.flatnonzero(self.server == i)
            parts = held[~self.demand.is_pinned[held]]
            if len(held) <= 1 or not len(parts):
                return
            large = self.demand.rank[parts] > self.capacity.options.max_lora_rank[self.rows[i]]
            pool = parts[large] if large.any() else parts
            # The smallest part whose leaving brings the server within its limits. If no part alone
            # does that, the part that relieves the server most.
            less = self._sums_without(i, pool)
            choice = self.capacity.best(less, np.full(len(pool), self.rows[i]))
            enough = (choice.risk <= self.limit[i]) & (choice.fill <= self.most_fill[i])
            if enough.any():
                pick = int(np.argmax(np.where(enough, choice.fill, -1.0)))
            else:
                pick = int(np.argmin(choice.fill))
            part = int(pool[pick])
            if not self.may_move(part):
                return
            self.house(part, banned=(i,))
            if self.risk[i] > self.limit[i]:
                self.reconfigure(i)

    def _sums_without(self, i: int, parts: np.ndarray) -> SetSums:
        """Return one set per part: server i without that part, its largest rate unchanged."""
        one = self.set_of(i).take(np.zeros(len(parts), dtype=np.int64))
        ranks = np.sort(self.demand.rank[self.server == i])
        below = ranks[-2] if len(ranks) > 1 else 0
        largest = np.where(self.demand.rank[parts] >= ranks[-1], below, ranks[-1])
        return SetSums(one.sums - self.demand.terms[parts], largest, one.max_rate_rps)

    def close(self, moves: int) -> None:
        """Close servers, the emptiest first, while others take their parts and the moves last.

        A server that cannot be emptied does not keep the next from being tried.
        """
        spent_before = int(self.movers().sum())
        most = min(self.most_moves, spent_before + moves)
        failed: set[int] = set()
        while len(failed) < CLOSING_TRIES:
            sizes = np.bincount(self.server, minlength=self.count)
            pinned = np.bincount(self.server[self.demand.is_pinned], minlength=self.count) > 0
            used = np.flatnonzero(sizes > 0)
            open_ = [int(i) for i in used if not pinned[i] and int(i) not in failed]
            if len(used) <= 1 or not open_:
                return
            i = min(open_, key=lambda server: self.fill[server])
            if self._move_all_away(i, sizes, most):
                failed.clear()
            else:
                failed.add(i)

    def _move_all_away(self, i: int, sizes: np.ndarray, most_moves: int) -> bool:
        """Move all parts of server i elsewhere, or none; return whether the moves sufficed."""
        others = (sizes > 0) & (np.arange(self.count) != i)
        if (1.0 - self.fill[others]).sum() < 0.5 * self.fill[i]:
            return False
        before = self._copies()
        banned = (i, *np.flatnonzero(sizes == 0).tolist())
        parts = np.flatnonzero(self.server == i)
        for part in parts[np.argsort(-self.demand.rate_rps[parts], kind="stable")].tolist():
            found = self.target(part, banned) or self.target(part, banned, joins_replica=True)
            if found is not None:
                self.server[part], self.rows[found[0]] = found
                self.refresh(found[0])
            if found is None or self.movers().sum() > most_moves:
                self.server, self.sums, self.rows, self.risk, self.fill = before
                return False
        self.refresh(i)
        return True

    def _copies(self) -> tuple[np.ndarray, SetSums, np.ndarray, np.ndarray, np.ndarray]:
        sums = SetSums(
            self.sums.sums.copy(), self.sums.max_rank.copy(), self.sums.max_rate_rps.copy()
        )
        return self.server.copy(), sums, self.rows.copy(), self.risk.copy(), self.fill.copy()

    def outcome(self) -> Moved:
        """Return the assignment, with the best configuration for each server that is new."""
        for i in range(self.running, self.count):
            if (self.server == i).any():
                self.reconfigure(i)
        return Moved(self.server, self.rows, int(self.movers().sum()))


def _row(capacity: Capacity, slots: int, rank: int) -> int:
    options = capacity.options
    fits = (options.max_loras >= slots) & (options.max_lora_rank >= rank)
    if not fits.any():
        return int(np.lexsort((options.max_loras, options.max_lora_rank))[-1])
    candidates = np.flatnonzero(fits)
    return int(candidates[np.lexsort((options.max_loras[fits], options.max_lora_rank[fits]))[0]])
