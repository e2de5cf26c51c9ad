"""How long requests wait where adapters are many and slots few, from a set's sums.

A request whose adapter has no slot waits in the queue, and all that come for the same adapter
meanwhile wait with it: they gather. vLLM gives a slot that falls free to the adapter of the oldest
request. Then all of its requests run together, those that arrive meanwhile run at once, and the
slot is free again when none is left. An adapter is thus

    absent      1 / r on average, until a request comes
    waiting     W, the same for all: slots are given in order of arrival
    holding     H, the time in which 1 + Poisson(r W) requests, and those that join, run empty

With running times of mean D and a = r D, w = W / D, the passage times of the M/M/infinity queue
give H / D = integral over (0, 1) of (1 - (1 - v) exp(-a w v)) exp(a v) / v dv. An adapter holds a
slot for a part a H / (1 + a w + a H) of the time (H in units of D), and at W = 0 that is
1 - exp(-a), the occupancy of M/G/infinity. W is where these parts add up to the slots.

Both this part and the requests that wait are sums over adapters of a function of x t, with x = r
times output tokens and the step time t. The sums that are kept of a set (`maitre.maxpack.features`)
hold x in other functions, 1 - exp(-x s) at nine s; a linear combination of these, fitted once for
each t and w, stands in for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import FIRST_ACTIVE, STEP_TIMES_S, TERMS

_COUNT, _OUTPUT = TERMS.index("adapters"), TERMS.index("output_tps")
_N_STEPS = len(STEP_TIMES_S)
# Step times (s) and waits (in running times) for which combinations are fitted.
_FIRST_STEP_S, _STEP_RATIO, _STEPS = 2e-3, math.sqrt(2.0), 20
_FIRST_WAIT, _WAITS = 0.25, 14
# Output tokens per second of one adapter, over which the combinations are fitted.
_FIRST_OUTPUT_TPS, _OUTPUT_RATIO, _OUTPUTS = 0.02, 2.0**0.25, 62
_MOST_RUNNING = 200.0
_POINTS = np.geomspace(1e-5, 1.0, 120)
# Weight of small values in the fits, as a part of the largest, and of small coefficients.
_SLOTS_FLOOR, _QUEUE_FLOOR, _RIDGE = 0.01, 0.05, 1e-6


class GatheringTable(NamedTuple):
    """Coefficients of the sums of a set, (step times, waits, 9 + 2), for slots and for queue."""

    slots: np.ndarray
    queue: np.ndarray


@lru_cache(maxsize=1)
def gathering_table() -> GatheringTable:
    """Return the coefficients; fit them at the first call."""
    x = _FIRST_OUTPUT_TPS * _OUTPUT_RATIO ** np.arange(_OUTPUTS)
    basis = np.column_stack([-np.expm1(np.outer(-x, STEP_TIMES_S)), x, np.ones_like(x)])
    slots = np.zeros((_STEPS, _WAITS, basis.shape[1]))
    queue = np.zeros_like(slots)
    # Outputs and step times are on one grid, so their products are too.
    apart = round(math.log(_STEP_RATIO) / math.log(_OUTPUT_RATIO))
    running = x[0] * _FIRST_STEP_S * _OUTPUT_RATIO ** np.arange(_OUTPUTS + apart * (_STEPS - 1))
    for j in range(_WAITS):
        held, waiting = slot_use(running, _wait_at(j))
        for i in range(_STEPS):
            mine = slice(i * apart, i * apart + _OUTPUTS)
            slots[i, j] = _combination(basis, held[mine], _SLOTS_FLOOR)
            if j > 0:
                queue[i, j] = _combination(basis, waiting[mine], _QUEUE_FLOOR)
    return GatheringTable(slots, queue)


def slot_use(running: np.ndarray, wait: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the time that adapters hold a slot, and their mean waiting requests.

    `running` is the offered load of each adapter (rate times running time), `wait` the wait for a
    slot in running times.
    """
    a = np.minimum(running, _MOST_RUNNING)[:, None]
    v = _POINTS
    inner = (1.0 - (1.0 - v) * np.exp(-a * wait * v)) * np.exp(a * v) / v
    a, gathered = a[:, 0], a[:, 0] * wait
    holding = a * ((1.0 + gathered) * v[0] + np.trapezoid(inner, v, axis=1))
    cycle = 1.0 + gathered + holding
    return holding / cycle, a * (wait + 0.5 * wait * gathered) / cycle


@compiled
def wait_for_slots(sums, slots, t, slot_table, queue_table):
    """Return the mean wait for a slot, in running times, and how many requests wait on average.

    `t` is the step time in which the server is busy all of the time (s).
    """
    place = math.log(t / _FIRST_STEP_S) / math.log(_STEP_RATIO)
    place = min(max(place, 0.0), _STEPS - 1.001)
    row = int(place)
    part = place - row
    before = _combination_at(sums, slot_table, row, part, 0)
    for j in range(1, _WAITS):
        now = _combination_at(sums, slot_table, row, part, j)
        if now <= slots or j == _WAITS - 1:
            share = 0.0 if before <= slots else (before - slots) / max(before - now, 1e-9)
            share = min(share, 1.0)
            low, high = _wait_at(j - 1), _wait_at(j)
            waiting = (1.0 - share) * _combination_at(sums, queue_table, row, part, j - 1)
            waiting += share * _combination_at(sums, queue_table, row, part, j)
            return low + share * (high - low), max(waiting, 0.0)
        before = now
    return 0.0, 0.0


@compiled
def _combination_at(sums, table, row, part, j):
    """Return the j-th combination of the table, between two step times."""
    total = 0.0
    for k in range(_N_STEPS):
        total += _interpolated(table, row, part, j, k) * sums[FIRST_ACTIVE + k]
    total += _interpolated(table, row, part, j, _N_STEPS) * sums[_OUTPUT]
    return total + _interpolated(table, row, part, j, _N_STEPS + 1) * sums[_COUNT]


@compiled
def _interpolated(table, row, part, j, k):
    return (1.0 - part) * table[row, j, k] + part * table[row + 1, j, k]


@compiled
def _wait_at(j):
    """Return the j-th wait of the table: 0, then doubling."""
    return 0.0 if j == 0 else _FIRST_WAIT * 2.0 ** (j - 1)


def _combination(basis: np.ndarray, wanted: np.ndarray, floor: float) -> np.ndarray:
    """Return coefficients of the basis that come near `wanted`, in relative terms."""
    weight = 1.0 / (wanted + floor * wanted.max())
    scaled = basis * weight[:, None]
    norm = np.linalg.norm(scaled, axis=0)
    scaled /= norm
    normal = scaled.T @ scaled + _RIDGE * np.eye(len(norm))
    return np.asarray(np.linalg.solve(normal, scaled.T @ (wanted * weight)) / norm)
