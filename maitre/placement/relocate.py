"""Change a running assignment for new rates, moving few adapters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.demand import Demand
from maitre.placement.plan import PlacementPlan

NEW = -1
# However full the twin has let a server be, as likely as not to fail is too likely.
MOST_TOLERATED = 0.5


@dataclass(frozen=True)
class Carried:
    """A running plan under new rates: parts with their servers, and the servers' configurations.

    `server` is `NEW` for adapters that no server holds yet; `names` are the servers' names;
    `accepted_risk` is the risk that the twin let them be filled to
    (`maitre.placement.remove_server`), else 0.
    """

    demand: Demand
    server: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]
    accepted_risk: np.ndarray


def carried_over(
    plan: PlacementPlan, names: np.ndarray, whole: Demand, capacity: Capacity
) -> Carried:
    """The plan's parts under new rates: `whole` has one part an adapter, called `names`.

    Adapters that are gone are dropped. A configuration that is not among the capacity's options
    becomes the smallest option that holds it.
    """
    place = {str(name): i for i, name in enumerate(names)}
    adapter, share, server = [], [], []
    held: set[int] = set()
    for i, planned in enumerate(plan.servers):
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
            for planned in plan.servers
        ]
    )
    servers = tuple(planned.name for planned in plan.servers)
    accepted_risk = np.array([planned.accepted_risk for planned in plan.servers])
    return Carried(demand, np.array(server), rows, servers, accepted_risk)


@dataclass(frozen=True)
class Moved:
    """The outcome: each part's server, the servers' rows, and the parts that had to move."""

    server: np.ndarray
    rows: np.ndarray
    moved: np.ndarray


def relocate(
    carried: Carried,
    capacity: Capacity,
    *,
    tolerated_risk: float | None = None,
    moves: int | None = None,
    closing_moves: int = 0,
) -> Moved:
    """Keep what still fits; else reconfigure; else move the fewest parts; then close servers.

    A server within `tolerated_risk` (the capacity's own unless given) stays as it is, however
    unbalanced: moves cost more than balance is worth. One that is over tries its other
    configurations first, which moves nobody. Then it gives up parts, those that relieve it
    most first, to the servers where they cost least, or to a new one, until it is within the
    capacity's risk again: the gap between the two risks keeps it from moving parts each time that
    rates wobble. Both risks are higher, in proportion, on servers that the twin has let be fuller.
    The riskiest servers come first; `moves` bounds the parts moved, of which at most
    `closing_moves` are moved only to close servers.
    """
    state = _State(carried, capacity)
    for part in np.flatnonzero(state.server == NEW):
        state.house(int(part), banned=())
    act_above = tolerated(state.limit, capacity.risk, tolerated_risk or 0.0)
    left = len(state.server) if moves is None else moves
    for i in np.argsort(-state.risk[: len(act_above)], kind="stable").tolist():
        if state.risk[i] > act_above[i]:
            state.reconfigure(i)
            left -= state.unload(i, left)
    state.close(min(closing_moves, left))
    return state.outcome()


def tolerated(limits: np.ndarray, risk: float, tolerated_risk: float) -> np.ndarray:
    """The risk above which each server is relieved: `tolerated_risk` of one with limit `risk`."""
    hysteresis = max(1.0, tolerated_risk / risk)
    return np.maximum(limits, np.minimum(limits * hysteresis, MOST_TOLERATED))


class _State:
    """The assignment while parts move; sums are kept up to date part by part."""

    def __init__(self, carried: Carried, capacity: Capacity) -> None:
        self.demand, self.capacity = carried.demand, capacity
        self.before = carried.server
        self.server = carried.server.copy()
        self.count = len(carried.rows)
        known = self.server != NEW
        self.sums = SetSums.of_groups(
            self.demand.terms[known], self.demand.rank[known], self.server[known], self.count
        )
        # The risk up to which each server is filled.
        self.limit = np.maximum(carried.accepted_risk, capacity.risk)
        self.largest_rank = int(self.demand.rank.max(initial=1))
        choice = capacity.best(self.sums, carried.rows)
        self.rows = carried.rows.copy()
        self.risk, self.fill = choice.risk.copy(), choice.fill.copy()
        tier = capacity.options.rank_tier(self.sums.max_rank)
        self.risk[capacity.options.max_lora_rank[self.rows] < tier] = 1.0

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

    def reconfigure(self, i: int) -> None:
        choice = self.capacity.best(self.set_of(i))
        if choice.risk[0] < self.risk[i]:
            self.rows[i] = choice.rows[0]
            self.risk[i], self.fill[i] = choice.risk[0], choice.fill[0]

    def target(self, part: int, banned: tuple[int, ...]) -> int | None:
        """The server as it is configured where the part costs the least fill, if any takes it."""
        grown = self.sums.plus(self.demand.terms[part], self.demand.rank[part])
        options = self.capacity.options
        choice = self.capacity.best(grown, self.rows)
        fits = choice.risk <= self.limit
        fits &= options.max_lora_rank[self.rows] >= self.demand.rank[part]
        fits &= grown.column("adapters") <= self.capacity.max_adapters
        same = self.server[self.demand.adapter == self.demand.adapter[part]]
        fits[same[same != NEW]] = False
        fits[list(banned)] = False
        if not fits.any():
            return None
        return int(np.argmin(np.where(fits, choice.fill - self.fill, np.inf)))

    def house(self, part: int, banned: tuple[int, ...]) -> None:
        target = self.target(part, banned)
        if target is None:
            target = self.count
            self.count += 1
            alone = self.demand.take(np.array([part])).sums(np.zeros(1, dtype=np.int64), 1)
            # Sized for company: a server opened for one adapter will take others, of any rank.
            row = _row(self.capacity, 64, self.largest_rank)
            self.sums = SetSums(
                np.vstack([self.sums.sums, np.zeros_like(alone.sums)]),
                np.append(self.sums.max_rank, 0),
                np.append(self.sums.max_rate_rps, 0.0),
            )
            self.rows = np.append(self.rows, row)
            self.risk, self.fill = np.append(self.risk, 0.0), np.append(self.fill, 0.0)
            self.limit = np.append(self.limit, self.capacity.risk)
        source = int(self.server[part])
        self.server[part] = target
        self.refresh(target)
        if source not in (NEW, target):
            self.refresh(source)

    def unload(self, i: int, most: int) -> int:
        """Move at most so many parts off server i until it is within its risk; how many it took."""
        moved = 0
        while self.risk[i] > self.limit[i] and moved < most:
            held = np.flatnonzero(self.server == i)
            parts = held[~self.demand.is_pinned[held]]
            if len(held) <= 1 or not len(parts):
                return moved
            options = self.capacity.options
            large = self.demand.rank[parts] > options.max_lora_rank[self.rows[i]]
            pool = parts[large] if large.any() else parts
            # The part whose leaving brings the server within its limit with the least excess; if
            # none does alone, the one that relieves it most.
            less = self._without(i, pool)
            choice = self.capacity.best(less, np.full(len(pool), self.rows[i]))
            enough = choice.risk <= self.limit[i]
            if enough.any():
                pick = int(np.argmax(np.where(enough, choice.fill, -1.0)))
            else:
                pick = int(np.argmin(choice.fill))
            self.house(int(pool[pick]), banned=(i,))
            moved += 1
            self.reconfigure_if_over(i)
        return moved

    def reconfigure_if_over(self, i: int) -> None:
        if self.risk[i] > self.limit[i]:
            self.reconfigure(i)

    def _without(self, i: int, parts: np.ndarray) -> SetSums:
        """Server i without each of these parts in turn (maxima kept: they can only fall)."""
        one = self.set_of(i).take(np.zeros(len(parts), dtype=np.int64))
        return SetSums(one.sums - self.demand.terms[parts], one.max_rank, one.max_rate_rps)

    def close(self, moves: int) -> None:
        """Close the emptiest servers while their parts fit elsewhere and the moves last."""
        while self.count > 1:
            sizes = np.bincount(self.server, minlength=self.count)
            held = np.bincount(self.server[self.demand.is_pinned], minlength=self.count) > 0
            open_ = np.flatnonzero((sizes > 0) & ~held)
            if len(open_) <= 1:
                return
            i = int(open_[np.argmin(self.fill[open_])])
            if sizes[i] > moves:
                return
            before = self._copies()
            empty = tuple(np.flatnonzero(sizes == 0).tolist())
            for part in np.flatnonzero(self.server == i):
                target = self.target(int(part), banned=(i, *empty))
                if target is None:
                    self.server, self.sums, self.rows, self.risk, self.fill = before
                    return
                self.server[part] = target
                self.refresh(target)
            moves -= int(sizes[i])
            self.refresh(i)

    def _copies(self) -> tuple[np.ndarray, SetSums, np.ndarray, np.ndarray, np.ndarray]:
        sums = SetSums(
            self.sums.sums.copy(), self.sums.max_rank.copy(), self.sums.max_rate_rps.copy()
        )
        return self.server.copy(), sums, self.rows.copy(), self.risk.copy(), self.fill.copy()

    def outcome(self) -> Moved:
        return Moved(self.server, self.rows, np.flatnonzero(self.server != self.before))


def _row(capacity: Capacity, slots: int, rank: int) -> int:
    options = capacity.options
    fits = (options.max_loras >= slots) & (options.max_lora_rank >= rank)
    if not fits.any():
        return int(np.lexsort((options.max_loras, options.max_lora_rank))[-1])
    candidates = np.flatnonzero(fits)
    return int(candidates[np.lexsort((options.max_loras[fits], options.max_lora_rank[fits]))[0]])
