"""A server in steady state, from averages alone: the physics that the learned model starts from.

With request rate l (1/s), mean step time t (s) and the twin's own step cost
(`maitre.twin.kernel.step_time`), averages over the steps of a busy server are

    sequences   B = t * output_tps
    prefill     P: compound Poisson, on average t * input_tps tokens a step
    KV tokens   K = t * (c1 input_output + c2 output_output / 2) + block rounding * B
    adapters    L(t) = sum_i 1 - exp(-r_i output_i t)
    busy        E[step cost(B, P, K, L)] / t

The server is sustainable when at some t it is busy for at most all of the time while K fits the KV
cache, L the slots and B `max_num_seqs`. `fill` is the smallest over t of the largest of
those fractions: up to 1 the averages can be met, above 1 they cannot. What fluctuations do near 1
is for the learned model to say; it gets the scales on which they act:

    load_at_limit       busy at the longest step time that KV cache, slots and sequences allow:
                        the utilisation of a server that works off a queue
    wait_at_limit_ms    mean wait of a single-server queue at that utilisation
    *_spare_sigmas      what is free of the KV cache (the slots) in standard deviations of its use
    slot_wait_p99_ms    99th percentile of the wait for a slot, if as many find none free as in the
                        limit of Halfin and Whitt (1981)

Slots are soft: where requests wait for one, those of an adapter gather and then run together
(`maitre.maxpack.gathering`). A server whose slots are short is slow before it starves:

    fill_waiting        the fill if requests may wait for slots for as long as it takes
    slot_wait_ms        how long the first request of an adapter waits, where the slots are short
    queue_wait_ms       the wait for a slot, averaged over all requests
"""

from __future__ import annotations

import math

import numpy as np

from maitre.maxpack.averages import (
    COUNT,
    IN_OUT,
    OUT_OUT,
    OUTPUT,
    RATE,
    active_adapters,
    busy_part,
    crossing_s,
    held_per_s,
    limits_used,
    longest_step_s,
    settled_s,
)
from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import SetSums
from maitre.maxpack.gathering import gathering_table, wait_for_slots
from maitre.maxpack.options import ServerOptions

_MOST_SIGMAS, _LEAST_IDLE = 30.0, 1e-4
_LEAST_SPARE, _LONGEST_MS = 0.1, 1e6
# Factor of the step times between which a slope is taken.
_APART = 1.2

FLUID_FEATURES = (
    "fill",
    "fill_time",
    "fill_kv",
    "fill_slots",
    "step_ms",
    "sequences",
    "adapters_in_batch",
    "kv_fraction",
    "slots_fraction",
    "load_at_limit",
    "kv_spare_sigmas",
    "slots_spare_sigmas",
    "wait_at_limit_ms",
    "fill_batch",
    "fill_waiting",
    "slot_wait_ms",
    "queue_wait_ms",
    "slot_wait_p99_ms",
)


def fluid_features(
    sets: SetSums, options: ServerOptions, rows: np.ndarray, who: np.ndarray | None = None
) -> np.ndarray:
    """Return steady-state averages of each set on option `rows[i]`: (rows, FLUID_FEATURES).

    With `who`, of set `who[i]`. An impossible configuration (no KV cache) gets `fill` 1000.
    """
    out = np.empty((len(rows), len(FLUID_FEATURES)))
    _solve_all(
        np.ascontiguousarray(sets.sums),
        np.arange(len(rows)) if who is None else who,
        np.asarray(rows),
        options.cost_table,
        options.limits,
        *length_constants(options),
        gathering_table(),
        out,
    )
    return out


def length_constants(options: ServerOptions) -> tuple[tuple[float, ...], float]:
    """Return length moments and the tokens that rounding to blocks adds, for kernels."""
    moments = options.moments
    scales = (
        moments.input_input,
        moments.input_output,
        moments.output_output,
        moments.input_input_output,
        moments.input_output_output,
        moments.output_output_output,
    )
    return scales, 0.5 * (moments.block_tokens - 1)


@compiled
def _solve_all(sums, who, rows, costs, limits, moments, rounding, waits, out):
    for i in range(len(rows)):
        row = rows[i]
        _solve(sums[who[i]], costs[row], limits[row], moments, rounding, waits, out[i])


@compiled
def _solve(sums, cost, limit, moments, rounding, waits, out):
    out[:] = 0.0
    if limit[0] <= 0.0:
        out[:4] = 1e3
        out[14] = 1e3
        return
    kv_per_s = held_per_s(sums, moments, rounding)
    t = crossing_s(sums, cost, limit, kv_per_s, moments[0], False)
    kv, slots, sequences = limits_used(sums, limit, t, kv_per_s)
    busy = busy_part(sums, cost, limit, t, kv_per_s, moments[0])
    out[0] = max(max(busy, kv), max(slots, sequences))
    out[1], out[2], out[3], out[13] = busy, kv, slots, sequences
    out[14] = out[0]
    if slots > 1.0:
        _solve_waiting(sums, cost, limit, kv_per_s, moments[0], waits, out)
    # The step time at which the server settles: busy exactly all of the time, or the crossing
    # when it is overloaded.
    if out[0] < 1.0:
        t = settled_s(sums, cost, limit, kv_per_s, moments[0], t)
        kv, slots, sequences = limits_used(sums, limit, t, kv_per_s)
    out[4] = 1e3 * t
    out[5] = t * sums[OUTPUT]
    out[6] = active_adapters(sums, t)
    out[7] = kv
    out[8] = out[6] / limit[1]
    _fluctuations(sums, cost, limit, kv_per_s, moments, t, out)


@compiled
def _solve_waiting(sums, cost, limit, kv_per_s, in_in, waits, out):
    """Write into `out` the state of a server with too few slots, whose requests wait for them."""
    t = crossing_s(sums, cost, limit, kv_per_s, in_in, True)
    kv, _, sequences = limits_used(sums, limit, t, kv_per_s)
    out[14] = max(busy_part(sums, cost, limit, t, kv_per_s, in_in), max(kv, sequences))
    if out[14] < 1.0:
        t = settled_s(sums, cost, limit, kv_per_s, in_in, t)
    wait, waiting = wait_for_slots(sums, limit[1], t, waits.slots, waits.queue)
    rate = max(sums[RATE], 1e-12)
    out[15] = 1e3 * wait * t * sums[OUTPUT] / rate
    out[16] = 1e3 * waiting / rate


@compiled
def _fluctuations(sums, cost, limit, kv_per_s, moments, t, out):
    """Return the scales on which load, KV cache and slots fluctuate."""
    full_t = longest_step_s(sums, limit, kv_per_s)
    load = busy_part(sums, cost, limit, full_t, kv_per_s, moments[0])
    out[9] = load
    # Requests come and go as in an M/G/infinity queue: the variance of what they hold is the rate
    # times the integral over a request's life of the square of what it holds then.
    written = max(sums[OUTPUT], 1e-12)
    inputs, outputs = sums[IN_OUT] / written, sums[OUT_OUT] / written
    square = moments[3] * inputs * inputs + moments[4] * inputs * outputs
    square += moments[5] * outputs * outputs / 3.0
    sigma = math.sqrt(max(t * sums[OUTPUT] * square, 1e-9))
    out[10] = _bounded_sigmas((1.0 - out[7]) * limit[0] / sigma)
    idle = max(1.0 - load, _LEAST_IDLE)
    out[12] = 1e3 * 0.5 * (1.0 + moments[2]) * load / (idle * max(sums[RATE], 1e-6))
    out[11] = _MOST_SIGMAS
    if sums[COUNT] > limit[1]:
        # Each adapter is in the batch with probability p = 1 - exp(-x t): the sum of p (1 - p).
        spread = math.sqrt(max(active_adapters(sums, 2.0 * t) - out[6], 1e-2))
        spare = limit[1] - out[6]
        out[11] = _bounded_sigmas(spare / spread)
        # Slots fall free at the rate at which adapters come: the slope of p over the output tokens.
        slope = active_adapters(sums, _APART * t) - active_adapters(sums, t / _APART)
        slope /= t * (_APART - 1.0 / _APART)
        held_s = out[6] * sums[OUTPUT] / max(sums[RATE] * slope, 1e-12)
        out[17] = min(1e3 * held_s / max(spare, _LEAST_SPARE), _LONGEST_MS)
        out[17] *= _waits_over(0.01, out[11])


@compiled
def _waits_over(part, sigmas):
    """Return the wait that this part of requests exceeds, in mean waits of those that wait at all.

    How many wait follows from what is spare (Halfin and Whitt); waits are exponential.
    """
    spare = max(sigmas, 0.0)
    below = 0.5 * math.erfc(-spare / math.sqrt(2.0))
    some = 1.0 / (1.0 + spare * math.sqrt(2.0 * math.pi) * below * math.exp(0.5 * spare * spare))
    return max(math.log(some / part), 0.0)


@compiled
def _bounded_sigmas(sigmas):
    return min(max(sigmas, -_MOST_SIGMAS), _MOST_SIGMAS)
