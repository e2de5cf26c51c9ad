"""Finds the slots on which a set of adapters leaves a server the most room."""

from __future__ import annotations

import numpy as np

from maitre.maxpack.averages import fill_on, held_per_s
from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import length_constants
from maitre.maxpack.options import ServerOptions

_STRIDE = 4


def roomiest_rows(
    sets: SetSums,
    options: ServerOptions,
    tier: np.ndarray,
    *,
    kept: int,
    near_slots: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the configurations of rank `tier[i]` on which set i has the lowest fill, best first.

    Returns (set, row) pairs, up to `kept` per set. More slots than adapters are never
    considered. The fill falls with the slots while they are short and rises with the KV cache
    that they take, so few numbers have to be looked at: every fourth and those around the best;
    with `near_slots` those downhill from there. A slot for every adapter is always considered.
    """
    ladder, lengths = options.ladders
    place = np.searchsorted(options.tiers, tier)
    slots = options.max_loras[ladder[0, : lengths[0]]]
    enough = np.minimum(np.searchsorted(slots, sets.column("adapters")), len(slots) - 1)
    start = -1 if near_slots is None else int(np.searchsorted(slots, near_slots))
    found = np.full((len(sets), kept), -1, dtype=np.int64)
    _search_slots(
        np.ascontiguousarray(sets.sums),
        ladder[place],
        np.minimum(enough, lengths[place] - 1),
        start,
        options.cost_table,
        options.limits,
        *length_constants(options),
        found,
    )
    who, _ = np.nonzero(found >= 0)
    return who, found[found >= 0]


@compiled
def _search_slots(sums, ladders, last, start, costs, limits, moments, rounding, found):
    """Return the rows of each set's ladder (slots up to `last`) with the lowest fill."""
    fills = np.empty(ladders.shape[1])
    for i in range(len(sums)):
        top = last[i]
        fills[:] = np.inf
        kv_per_s = held_per_s(sums[i], moments, rounding)
        if start < 0:
            for k in range(0, top + 1, _STRIDE):
                fills[k] = fill_on(sums[i], costs, limits, ladders[i, k], kv_per_s, moments[0])
        else:
            k = min(start, top)
            fills[k] = fill_on(sums[i], costs, limits, ladders[i, k], kv_per_s, moments[0])
        if fills[top] == np.inf:
            fills[top] = fill_on(sums[i], costs, limits, ladders[i, top], kv_per_s, moments[0])
        # Downhill from the best until both its neighbours are known.
        while True:
            best = int(np.argmin(fills[: top + 1]))
            low, high = max(best - 1, 0), min(best + 1, top)
            if fills[low] < np.inf and fills[high] < np.inf:
                break
            for k in (low, high):
                if fills[k] == np.inf:
                    row = ladders[i, k]
                    fills[k] = fill_on(sums[i], costs, limits, row, kv_per_s, moments[0])
        for place in range(min(found.shape[1], top + 1)):
            k = int(np.argmin(fills[: top + 1]))
            if fills[k] == np.inf:
                break
            found[i, place] = ladders[i, k]
            fills[k] = np.inf
