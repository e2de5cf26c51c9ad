"""Averages over the steps of a busy server, and the step time at which they balance.

`sums` holds a set's terms (`maitre.maxpack.features.TERMS`), `limit` a configuration's KV cache
tokens, slots, sequences and batched tokens, `cost` the twin's step cost. See `maitre.maxpack.fluid`
for the formulas.
"""

from __future__ import annotations

import math

from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import FIRST_ACTIVE, STEP_TIMES_S, TERMS
from maitre.twin.kernel.step_time import step_s

COUNT = TERMS.index("adapters")
RATE, INPUT, OUTPUT = (TERMS.index(name) for name in ("rate_rps", "input_tps", "output_tps"))
IN_IN, IN_OUT = TERMS.index("input_input"), TERMS.index("input_output")
OUT_OUT = TERMS.index("output_output")
_LOG_FIRST = math.log(STEP_TIMES_S[0])
_LOG_RATIO = math.log(STEP_TIMES_S[1] / STEP_TIMES_S[0])
_N_STEPS = len(STEP_TIMES_S)
_BISECTIONS = 19
_SHORTEST_S, _LONGEST_S = 1e-3, 30.0
# Reach of a three-point Gauss-Hermite quadrature, in standard deviations.
_REACH = math.sqrt(3.0)
# 1 - exp(-u / 2) from 1 - exp(-u), 1 - exp(-2 u) and 1 - exp(-4 u), to the third order.
_HALVED = (0.875, -0.21875, 0.015625)


@compiled
def active_adapters(sums, t):
    """Return the expected distinct adapters in the batch at step time t (a cubic spline).

    (A straight line between them is up to 6 % too high where adapters are cold.)
    """
    place = (math.log(t) - _LOG_FIRST) / _LOG_RATIO
    if place <= 0.0:
        return min(sums[FIRST_ACTIVE] * t / STEP_TIMES_S[0], sums[COUNT])
    if place >= _N_STEPS - 1:
        return sums[FIRST_ACTIVE + _N_STEPS - 1]
    k = int(place)
    u = place - k
    here, then = sums[FIRST_ACTIVE + k], sums[FIRST_ACTIVE + k + 1]
    if k > 0:
        before = sums[FIRST_ACTIVE + k - 1]
    else:
        before = _HALVED[0] * here + _HALVED[1] * then + _HALVED[2] * sums[FIRST_ACTIVE + 2]
    if k < _N_STEPS - 2:
        after = sums[FIRST_ACTIVE + k + 2]
    else:
        # As the rise has gone on until here: twice as much where adapters are cold, at most.
        risen = then - here
        after = then + risen * min(risen / max(here - before, 1e-12), 2.0)
    # Catmull and Rom's spline: the slope at a node is that between its neighbours.
    rise = 0.5 * (then - before)
    bend = before - 2.5 * here + 2.0 * then - 0.5 * after
    twist = 1.5 * (here - then) + 0.5 * (after - before)
    return min(here + u * (rise + u * (bend + u * twist)), sums[COUNT])


@compiled
def busy_part(sums, cost, limit, t, kv_per_s, in_in):
    """Return the busy seconds per second when a step takes t seconds."""
    sequences = t * sums[OUTPUT]
    kv, active = t * kv_per_s, min(active_adapters(sums, t), limit[1])
    quiet = math.exp(-t * sums[RATE])
    total = quiet * step_s(cost, sequences, sequences, 0.0, kv, active)
    some = 1.0 - quiet
    if some > 0.0:
        # Prefill tokens of the steps that have any: mean and spread of a compound Poisson sum. No
        # step has more than the batch takes; what does not fit comes in the next, so that the mean
        # stays and the spread is less.
        mean = t * sums[INPUT] / some
        square = (t * in_in * sums[IN_IN] + (t * sums[INPUT]) ** 2) / some
        variance = max(square - mean * mean, 0.0)
        reach = _REACH * math.sqrt(variance)
        down = min(reach, mean - min(1.0, mean))
        up = min(reach, max(limit[3] - sequences, 1.0) - mean)
        weight_down = weight_up = 0.0
        if down > 0.0 and up > 0.0:
            weight_down = variance / (down * (down + up))
            weight_up = variance / (up * (down + up))
            scale = min(1.0, 1.0 / (weight_down + weight_up))
            weight_down, weight_up = scale * weight_down, scale * weight_up
            total += some * (
                weight_down * step_s(cost, sequences, sequences, mean - down, kv, active)
                + weight_up * step_s(cost, sequences, sequences, mean + up, kv, active)
            )
        middle = 1.0 - weight_down - weight_up
        total += some * middle * step_s(cost, sequences, sequences, mean, kv, active)
    return total / t


@compiled
def limits_used(sums, limit, t, kv_per_s):
    """Return fractions of the KV cache, the slots and the sequences in use at step time t."""
    kv = t * kv_per_s / limit[0]
    # With a slot for every adapter nobody waits for one, however many are active.
    slots = 0.0 if sums[COUNT] <= limit[1] else active_adapters(sums, t) / limit[1]
    sequences = max(t * sums[OUTPUT] / limit[2], t * (sums[OUTPUT] + sums[INPUT]) / limit[3])
    return kv, slots, sequences


@compiled
def longest_step_s(sums, limit, kv_per_s):
    """Return the step time at which the KV cache, the slots or the sequences are all in use."""
    t = min(_LONGEST_S, limit[0] / max(kv_per_s, 1e-12))
    t = min(t, limit[2] / max(sums[OUTPUT], 1e-12))
    t = min(t, limit[3] / max(sums[OUTPUT] + sums[INPUT], 1e-12))
    if sums[COUNT] > limit[1] and active_adapters(sums, t) > limit[1]:
        low, high = math.log(_SHORTEST_S), math.log(t)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if active_adapters(sums, math.exp(middle)) > limit[1]:
                high = middle
            else:
                low = middle
        t = math.exp(low)
    return max(t, _SHORTEST_S)


@compiled
def held_per_s(sums, moments, rounding):
    """Return the KV tokens held per second of step time, with half of each output written."""
    kv = moments[1] * sums[IN_OUT] + 0.5 * moments[2] * sums[OUT_OUT]
    return kv + rounding * sums[OUTPUT]


@compiled
def crossing_s(sums, cost, limit, kv_per_s, in_in, waiting):
    """Return the step time at which the server is as busy as the fullest of its limits.

    The busy part falls with t and the limits rise, so their maximum is smallest there. With
    `waiting` the slots do not limit.
    """
    low, high = math.log(_SHORTEST_S), math.log(_LONGEST_S)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        t = math.exp(middle)
        kv, slots, sequences = limits_used(sums, limit, t, kv_per_s)
        most = max(kv, sequences) if waiting else max(kv, max(slots, sequences))
        if busy_part(sums, cost, limit, t, kv_per_s, in_in) > most:
            low = middle
        else:
            high = middle
    return math.exp(high)


@compiled
def settled_s(sums, cost, limit, kv_per_s, in_in, longest_s):
    """Return the step time, up to `longest_s`, at which the server is just busy all the time."""
    low, high = math.log(_SHORTEST_S), math.log(longest_s)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if busy_part(sums, cost, limit, math.exp(middle), kv_per_s, in_in) > 1.0:
            low = middle
        else:
            high = middle
    return math.exp(high)


@compiled
def fill_on(sums, costs, limits, row, kv_per_s, in_in):
    """Return the fill alone; just above 1e3 without a KV cache."""
    if limits[row, 0] <= 0.0:
        return 1e3
    t = crossing_s(sums, costs[row], limits[row], kv_per_s, in_in, False)
    kv, slots, sequences = limits_used(sums, limits[row], t, kv_per_s)
    busy = busy_part(sums, costs[row], limits[row], t, kv_per_s, in_in)
    return max(max(busy, kv), max(slots, sequences))
