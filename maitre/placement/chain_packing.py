"""Packs parts in a given order: each server takes the longest stretch that it sustains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import TERMS, SetSums
from maitre.placement.capacity import Capacity, Choice
from maitre.placement.demand import Demand

_RATE = TERMS.index("rate_rps")
_LENGTHS_AT_ONCE = 5
_BRACKET = np.array([0.5, 0.8, 0.95, 1.0, 1.05, 1.2, 1.6, 2.5, 5.0])


@dataclass(frozen=True)
class Assignment:
    """Each part's server, and each server's configuration row, risk and fluid fill."""

    server: np.ndarray
    rows: np.ndarray
    risk: np.ndarray
    fill: np.ndarray

    @property
    def servers(self) -> int:
        """How many servers it uses."""
        return len(self.rows)

    @classmethod
    def judged(cls, server: np.ndarray, demand: Demand, capacity: Capacity) -> Assignment:
        """Return an assignment with the best configuration for each server, without gaps."""
        _, server = np.unique(server, return_inverse=True)
        choice = capacity.best(demand.sums(server, int(server.max()) + 1))
        return cls(server, choice.rows, choice.risk, choice.fill)


def tier_order(demand: Demand, tiers: np.ndarray, hot_first: tuple[bool, ...]) -> np.ndarray:
    """Return parts by ascending rank tier, then by rate; `hot_first` cycles over the tiers.

    Adapters alike in rank and rate share servers best: a server pays in KV cache for its largest
    rank and in step time for each adapter in the batch, so cold adapters want many slots and
    hot ones few.
    """
    keys = demand.rate_rps.copy()
    for i, tier in enumerate(np.unique(tiers)):
        if hot_first[i % len(hot_first)]:
            keys[tiers == tier] *= -1
    return np.lexsort((keys, tiers))


def fill_in_order(
    demand: Demand,
    order: np.ndarray,
    capacity: Capacity,
    *,
    max_fill: float = np.inf,
    max_step_ms: float = np.inf,
) -> Assignment | None:
    """Fill one server after another with consecutive parts of `order`.

    A server is full when one more part would put its risk above the capacity's limit, its fill
    above `max_fill` or its step time above `max_step_ms`. Pinned parts start the first servers, one
    for each name that they are pinned to, whatever their place in `order`. `None` when some part
    does not fit a server of its own, or pinned ones do not fit together.
    """
    server = np.empty(len(demand), dtype=np.int64)
    pinned_to = demand.pins()
    free = order[~demand.is_pinned[order]]
    terms, ranks = demand.terms[free], demand.rank[free]
    limits = _Limits(capacity.risk, max_fill, max_step_ms)
    found: list[tuple[int, float, float]] = []
    start, guess = 0, 32
    while start < len(free) or len(found) < len(pinned_to):
        base = None
        if len(found) < len(pinned_to):
            mine = pinned_to[len(found)]
            server[mine] = len(found)
            base = demand.take(mine).sums(np.zeros(len(mine), dtype=np.int64), 1)
        length, choice = _longest_stretch(terms, ranks, start, guess, capacity, limits, base)
        if choice is None:
            return None
        server[free[start : start + length]] = len(found)
        found.append(choice)
        start, guess = start + length, max(length, 1)
    rows, risks, fills = (np.array(column) for column in zip(*found, strict=True))
    return Assignment(server, rows, risks, fills)


@dataclass(frozen=True)
class _Limits:
    risk: float
    fill: float
    step_ms: float

    def allow(self, choice: Choice) -> np.ndarray:
        return np.asarray(
            (choice.risk <= self.risk)
            & (choice.fill <= self.fill)
            & (choice.step_ms <= self.step_ms)
        )


def _longest_stretch(
    terms: np.ndarray,
    ranks: np.ndarray,
    start: int,
    guess: int,
    capacity: Capacity,
    limits: _Limits,
    base: SetSums | None,
) -> tuple[int, tuple[int, float, float] | None]:
    """Return the longest fitting stretch from `start` beside `base`, and its (row, risk, fill)."""
    held = 0 if base is None else int(base.column("adapters")[0])
    most = min(len(terms) - start, capacity.max_adapters - held)
    best = None
    if base is not None:
        alone = capacity.best(base)
        if alone.risk[0] > limits.risk:
            return 0, None
        best = _values_at(alone, 0)
    fits_up_to, fails_from = 0, most + 1
    near = None
    lengths = np.unique(np.clip((guess * _BRACKET).astype(np.int64), 1, max(most, 0)))
    lengths = lengths[(lengths >= 1) & (lengths <= most)]
    while len(lengths):
        sets = _stretch_sums(terms, ranks, start, lengths, base)
        choice = capacity.best(sets, near_row=near)
        good = limits.allow(choice)
        # The first failure ends the stretch even if the model lets a longer one pass.
        count = len(good) if good.all() else int(np.argmin(good))
        if count:
            fits_up_to = int(lengths[count - 1])
            best = _values_at(choice, count - 1)
        if count < len(lengths):
            fails_from = int(lengths[count])
            near = int(choice.rows[count])
        if fails_from > most and fits_up_to < most:
            further = (fits_up_to * _BRACKET[5:]).astype(np.int64)
            lengths = np.unique(np.clip(further, fits_up_to + 1, most))
        else:
            lengths = np.unique(
                np.linspace(fits_up_to, fails_from, _LENGTHS_AT_ONCE + 2).astype(np.int64)[1:-1]
            )
            lengths = lengths[(lengths > fits_up_to) & (lengths < fails_from)]
    return fits_up_to, best


def _values_at(choice: Choice, i: int) -> tuple[int, float, float]:
    return int(choice.rows[i]), float(choice.risk[i]), float(choice.fill[i])


def _stretch_sums(
    terms: np.ndarray, ranks: np.ndarray, start: int, lengths: np.ndarray, base: SetSums | None
) -> SetSums:
    stop = start + int(lengths[-1])
    sets = SetSums(
        np.cumsum(terms[start:stop], axis=0)[lengths - 1],
        np.maximum.accumulate(ranks[start:stop])[lengths - 1],
        np.maximum.accumulate(terms[start:stop, _RATE])[lengths - 1],
    )
    if base is None:
        return sets
    return SetSums(
        sets.sums + base.sums,
        np.maximum(sets.max_rank, base.max_rank),
        np.maximum(sets.max_rate_rps, base.max_rate_rps),
    )
