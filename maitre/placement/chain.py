"""Packs parts in a given order: each server takes the longest stretch that it sustains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import TERMS, SetSums
from maitre.placement.capacity import Capacity, Choice
from maitre.placement.demand import Demand

_RATE = TERMS.index("rate_rps")
_LENGTHS_AT_ONCE = 12
_BRACKET = np.array([0.25, 0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.6, 2.5, 5.0])


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
        """An assignment with the best configuration for each of its servers; gaps are closed."""
        _, server = np.unique(server, return_inverse=True)
        choice = capacity.best(demand.sums(server, int(server.max()) + 1))
        return cls(server, choice.rows, choice.risk, choice.fill)


def tier_order(demand: Demand, tiers: np.ndarray, hot_first: tuple[bool, ...]) -> np.ndarray:
    """Parts by rank tier ascending, within a tier by rate; `hot_first` cycles over the tiers.

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
    demand: Demand, order: np.ndarray, capacity: Capacity, *, max_fill: float = np.inf
) -> Assignment | None:
    """Fill one server after another with consecutive parts of `order`.

    A server is full when one more part would put its risk above the capacity's limit or its fill
    above `max_fill`. `None` when some part does not fit a server of its own.
    """
    terms, ranks = demand.terms[order], demand.rank[order]
    server = np.empty(len(order), dtype=np.int64)
    rows: list[int] = []
    risks: list[float] = []
    fills: list[float] = []
    start, guess = 0, 32
    while start < len(order):
        length, choice = _longest(terms, ranks, start, guess, capacity, max_fill)
        if length == 0:
            return None
        server[order[start : start + length]] = len(rows)
        rows.append(choice[0])
        risks.append(choice[1])
        fills.append(choice[2])
        start, guess = start + length, length
    return Assignment(server, np.array(rows), np.array(risks), np.array(fills))


def _longest(
    terms: np.ndarray,
    ranks: np.ndarray,
    start: int,
    guess: int,
    capacity: Capacity,
    max_fill: float,
) -> tuple[int, tuple[int, float, float]]:
    """The longest fitting stretch from `start` and its (row, risk, fill)."""
    most = min(len(terms) - start, capacity.max_adapters)
    fits_up_to, fails_from = 0, most + 1
    best = (0, 1.0, np.inf)
    lengths = np.unique(np.clip((guess * _BRACKET).astype(np.int64), 1, most))
    while len(lengths):
        choice = capacity.best(_stretches(terms, ranks, start, lengths))
        good = (choice.risk <= capacity.risk) & (choice.fill <= max_fill)
        # The first failure ends the stretch even if the model lets a longer one pass.
        count = len(good) if good.all() else int(np.argmin(good))
        if count:
            fits_up_to = int(lengths[count - 1])
            best = _pick(choice, count - 1)
        if count < len(lengths):
            fails_from = int(lengths[count])
        if fails_from > most and fits_up_to < most:
            further = (fits_up_to * _BRACKET[6:]).astype(np.int64)
            lengths = np.unique(np.clip(further, fits_up_to + 1, most))
        else:
            lengths = np.unique(
                np.linspace(fits_up_to, fails_from, _LENGTHS_AT_ONCE + 2).astype(np.int64)[1:-1]
            )
            lengths = lengths[(lengths > fits_up_to) & (lengths < fails_from)]
    return fits_up_to, best


def _pick(choice: Choice, i: int) -> tuple[int, float, float]:
    return int(choice.rows[i]), float(choice.risk[i]), float(choice.fill[i])


def _stretches(terms: np.ndarray, ranks: np.ndarray, start: int, lengths: np.ndarray) -> SetSums:
    stop = start + int(lengths[-1])
    return SetSums(
        np.cumsum(terms[start:stop], axis=0)[lengths - 1],
        np.maximum.accumulate(ranks[start:stop])[lengths - 1],
        np.maximum.accumulate(terms[start:stop, _RATE])[lengths - 1],
    )
