"""Local search: moves and swaps that take risk off the riskiest servers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand

# Each round looks at this many parts of the riskiest server, servers that may take one, and parts
# of each of these servers that may come back for it.
_PARTS, _RECEIVERS, _IN_RETURN = 16, 16, 4
_LEAST_GAIN = 1e-4
NOTHING = -1


def balanced(
    found: Assignment, demand: Demand, capacity: Capacity, *, rounds: int = 60, seed: int = 0
) -> Assignment:
    """Return the assignment after moves and swaps that lower the servers' risks and overload.

    Each round takes the riskiest server over the capacity's risk. It compares some moves of that
    server's parts to other servers, and some swaps, and makes the best one. The search ends when no
    move helps any such server, or after `rounds`. Pinned parts and replicas stay where they are. No
    server is opened or closed. Equal seeds give equal assignments.
    """
    state = _State.of(found, demand, capacity)
    rng = np.random.default_rng(seed)
    stuck = np.zeros(found.servers, dtype=bool)
    for _ in range(rounds):
        over = np.where(stuck | (state.risk <= capacity.risk), -1.0, state.risk)
        worst = int(np.argmax(over))
        if over[worst] < 0:
            break
        if state.improve(worst, rng):
            stuck[:] = False
        else:
            stuck[worst] = True
    return Assignment(state.server, state.rows, state.risk, state.fill)


@dataclass(frozen=True)
class _Exchanges:
    """Candidates: `given` leaves the server for `receiver`, and `taken` (or nothing) comes."""

    given: np.ndarray
    receiver: np.ndarray
    taken: np.ndarray

    def take(self, which: np.ndarray) -> _Exchanges:
        return _Exchanges(self.given[which], self.receiver[which], self.taken[which])


@dataclass
class _State:
    """The assignment while parts move."""

    demand: Demand
    capacity: Capacity
    loose: np.ndarray
    server: np.ndarray
    rows: np.ndarray
    risk: np.ndarray
    fill: np.ndarray
    sets: SetSums

    @classmethod
    def of(cls, found: Assignment, demand: Demand, capacity: Capacity) -> _State:
        alone = np.bincount(demand.adapter)[demand.adapter] == 1
        return cls(
            demand,
            capacity,
            alone & ~demand.is_pinned,
            found.server.copy(),
            found.rows.copy(),
            found.risk.copy(),
            found.fill.copy(),
            demand.sums(found.server, found.servers),
        )

    def improve(self, giver: int, rng: np.random.Generator) -> bool:
        """Make the best of some exchanges of this server; return whether one helped."""
        candidates = self._candidates(giver, rng)
        if not len(candidates.given):
            return False
        gain = self._gain(giver, candidates)
        for best in np.argsort(-gain, kind="stable")[:3]:
            if gain[best] < _LEAST_GAIN:
                return False
            if self._try_exchange(giver, candidates.take(np.array([best]))):
                return True
        return False

    def _candidates(self, giver: int, rng: np.random.Generator) -> _Exchanges:
        given = self._some_of(giver, _PARTS, rng)
        others = np.flatnonzero(np.arange(len(self.rows)) != giver)
        others = others[np.argsort(self.risk[others], kind="stable")[:_RECEIVERS]]
        found = []
        for receiver in others.tolist():
            returned = np.append(NOTHING, self._some_of(receiver, _IN_RETURN, rng))
            pairs = np.stack(np.meshgrid(given, returned), axis=-1).reshape(-1, 2)
            found.append(np.column_stack([pairs, np.full(len(pairs), receiver)]))
        every = np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)
        return self._that_fit(giver, _Exchanges(every[:, 0], every[:, 2], every[:, 1]))

    def _some_of(self, server: int, most: int, rng: np.random.Generator) -> np.ndarray:
        held = np.flatnonzero((self.server == server) & self.loose)
        return held if len(held) <= most else rng.choice(held, most, replace=False)

    def _that_fit(self, giver: int, candidates: _Exchanges) -> _Exchanges:
        """Return the candidates that fit the server's largest rank and number of adapters."""
        largest = self.capacity.options.max_lora_rank[self.rows]
        rank = self.demand.rank
        comes = candidates.taken != NOTHING
        fits = rank[candidates.given] <= largest[candidates.receiver]
        fits &= ~comes | (rank[candidates.taken] <= largest[giver])
        held = self.sets.column("adapters")[candidates.receiver] + 1 - comes
        return candidates.take(np.flatnonzero(fits & (held <= self.capacity.max_adapters)))

    def _gain(self, giver: int, candidates: _Exchanges) -> np.ndarray:
        """Return by how much each candidate lowers the cost of the two servers."""
        count = len(candidates.given)
        left = self._sums_after(np.full(count, giver), candidates.taken, candidates.given)
        grown = self._sums_after(candidates.receiver, candidates.given, candidates.taken)
        rows = np.concatenate([np.full(count, self.rows[giver]), self.rows[candidates.receiver]])
        both = SetSums(
            np.concatenate([left.sums, grown.sums]),
            np.concatenate([left.max_rank, grown.max_rank]),
            np.concatenate([left.max_rate_rps, grown.max_rate_rps]),
        )
        choice = self.capacity.best(both, rows)
        cost = _cost(choice.risk, choice.fill)
        now = _cost(self.risk, self.fill)
        before = now[giver] + now[candidates.receiver]
        return np.asarray(before - cost[:count] - cost[count:])

    def _sums_after(self, servers: np.ndarray, comes: np.ndarray, leaves: np.ndarray) -> SetSums:
        """Return the servers' sets with parts added and removed; maxima can only rise here."""
        demand, sets = self.demand, self.sets.take(servers)
        added = np.where((comes != NOTHING)[:, None], demand.terms[comes], 0.0)
        removed = np.where((leaves != NOTHING)[:, None], demand.terms[leaves], 0.0)
        rank = np.where(comes != NOTHING, demand.rank[comes], 0)
        rate = np.where(comes != NOTHING, demand.rate_rps[comes], 0.0)
        return SetSums(
            sets.sums + added - removed,
            np.maximum(sets.max_rank, rank),
            np.maximum(sets.max_rate_rps, rate),
        )

    def _try_exchange(self, giver: int, one: _Exchanges) -> bool:
        """Make one exchange if it helps by exact sums and maxima; return whether it did."""
        receiver, given, taken = int(one.receiver[0]), int(one.given[0]), int(one.taken[0])
        server = self.server.copy()
        server[given] = receiver
        if taken != NOTHING:
            server[taken] = giver
        pair = np.array([giver, receiver])
        parts = np.flatnonzero(np.isin(server, pair))
        sets = self.demand.take(parts).sums((server[parts] == receiver).astype(np.int64), 2)
        as_is = self.capacity.best(sets, self.rows[pair])
        free = self.capacity.best(sets)
        better = free.risk < as_is.risk
        risk = np.where(better, free.risk, as_is.risk)
        fill = np.where(better, free.fill, as_is.fill)
        if _cost(self.risk[pair], self.fill[pair]).sum() - _cost(risk, fill).sum() < _LEAST_GAIN:
            return False
        self.server = server
        self.rows[pair] = np.where(better, free.rows, as_is.rows)
        self.risk[pair] = risk
        self.fill[pair] = fill
        self.sets.sums[pair] = sets.sums
        self.sets.max_rank[pair] = sets.max_rank
        self.sets.max_rate_rps[pair] = sets.max_rate_rps
        return True


def _cost(risk: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Return the cost to reduce: the risk, plus the overload, which guides where the risk is 1."""
    return np.asarray(risk + np.maximum(fill - 1.0, 0.0))
