"""A server in steady state, from averages alone: the physics that the learned model starts from.

With request rate l (1/s), mean step time t (s) and the twin's own step cost
(`maitre.twin.kernel.step_time`), averages over the steps of a busy server are

    sequences   B = t * output_tps
    prefill     P: compound Poisson, on average t * input_tps tokens a step
    KV tokens   K = t * (c1 input_output + c2 output_output / 2) + block rounding * B
    adapters    L(t) = sum_i 1 - exp(-r_i output_i t)
    busy        E[step cost(B, P, K, L)] / t

The server is sustainable when at some t it is busy for no more than all of the time while K fits
the KV cache, L the slots and B `max_num_seqs`. `fill` is the smallest over t of the largest of
those fractions: up to 1 the averages can be met, above 1 they cannot. What fluctuations do near 1
is for the learned model to say; it gets the scales on which they act:

    load_at_limit       busy at the longest step time that KV cache, slots and sequences allow:
                        the utilisation of a server that works off a queue
    wait_at_limit_ms    mean wait of a single-server queue at that utilisation
    *_spare_sigmas      what is free of the KV cache (the slots) in standard deviations of its use

Slots are soft. Where requests wait for one, those of an adapter gather and then run together: if
they wait W and run D, an adapter holds a slot for about D / (D + W) of the windows of D + W in
which it is asked for at all, so with z = 1 + W / D the slots in use are L(z t) / z. A server whose
slots are short is slow before it starves:

    fill_waiting        the fill if requests may wait for slots for as long as it takes
    slot_wait_ms        W, where the slots hold what is asked of them
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import FIRST_ACTIVE, STEP_TIMES_S, TERMS, SetSums
from maitre.twin.kernel.step_time import step_s

if TYPE_CHECKING:
    from maitre.maxpack.options import ServerOptions

_COUNT = TERMS.index("adapters")
_RATE, _INPUT, _OUTPUT = (TERMS.index(name) for name in ("rate_rps", "input_tps", "output_tps"))
_IN_IN, _IN_OUT = TERMS.index("input_input"), TERMS.index("input_output")
_OUT_OUT = TERMS.index("output_output")
_LOG_FIRST = math.log(STEP_TIMES_S[0])
_LOG_RATIO = math.log(STEP_TIMES_S[1] / STEP_TIMES_S[0])
_N_STEPS = len(STEP_TIMES_S)
_BISECTIONS = 19
_SHORTEST_S, _LONGEST_S = 1e-3, 30.0
_LONGEST_WAIT = 1e4
_MOST_SIGMAS, _LEAST_IDLE = 30.0, 1e-4
# Reach of a three-point Gauss-Hermite quadrature, in standard deviations.
_REACH = math.sqrt(3.0)

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
)


@dataclass(frozen=True)
class LengthMoments:
    """What the length distribution adds to its means.

    `input_input` is E[in^2] / E[in]^2, `input_output` E[in out] / (E[in] E[out]) and
    `output_output` E[out^2] / E[out]^2. `block_tokens` is the size of a KV block.
    """

    input_input: float
    input_output: float
    output_output: float
    block_tokens: int = 16

    @classmethod
    def of(
        cls, input_tokens: np.ndarray, output_tokens: np.ndarray, block_tokens: int = 16
    ) -> LengthMoments:
        """From a sample of requests, one entry each."""
        inputs, outputs = input_tokens.astype(float), output_tokens.astype(float)
        mean_in, mean_out = inputs.mean(), outputs.mean()
        return cls(
            float((inputs**2).mean() / mean_in**2),
            float((inputs * outputs).mean() / (mean_in * mean_out)),
            float((outputs**2).mean() / mean_out**2),
            block_tokens,
        )


def fluid_features(
    sets: SetSums, options: ServerOptions, rows: np.ndarray, who: np.ndarray | None = None
) -> np.ndarray:
    """Steady-state averages of each set on configuration `rows[i]`: (rows, len(FLUID_FEATURES)).

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
        out,
    )
    return out


def length_constants(options: ServerOptions) -> tuple[tuple[float, float, float], float]:
    """Length moments and the tokens that rounding up to blocks adds to a sequence, for kernels."""
    moments = options.moments
    scales = (moments.input_input, moments.input_output, moments.output_output)
    return scales, 0.5 * (moments.block_tokens - 1)


@compiled
def _active(sums, t):  # type: ignore[no-untyped-def]
    """Expected distinct adapters in the batch at step time t, interpolated in log t."""
    place = (math.log(t) - _LOG_FIRST) / _LOG_RATIO
    if place <= 0.0:
        return min(sums[FIRST_ACTIVE] * t / STEP_TIMES_S[0], sums[_COUNT])
    if place >= _N_STEPS - 1:
        return sums[FIRST_ACTIVE + _N_STEPS - 1]
    k = int(place)
    part = place - k
    return sums[FIRST_ACTIVE + k] * (1.0 - part) + sums[FIRST_ACTIVE + k + 1] * part


@compiled
def _busy(sums, cost, limit, t, kv_per_s, in_in):  # type: ignore[no-untyped-def]
    """Busy seconds per second when a step takes t seconds."""
    sequences = t * sums[_OUTPUT]
    kv, active = t * kv_per_s, min(_active(sums, t), limit[1])
    quiet = math.exp(-t * sums[_RATE])
    total = quiet * step_s(cost, sequences, sequences, 0.0, kv, active)
    some = 1.0 - quiet
    if some > 0.0:
        # Prefill tokens of the steps that have any: mean and spread of a compound Poisson sum. No
        # step has more than the batch takes; what does not fit comes in the next, so that the mean
        # stays and the spread is less.
        mean = t * sums[_INPUT] / some
        square = (t * in_in * sums[_IN_IN] + (t * sums[_INPUT]) ** 2) / some
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
def _limits(sums, limit, t, kv_per_s):  # type: ignore[no-untyped-def]
    """Fractions of the KV cache, the slots and the sequences in use at step time t."""
    kv = t * kv_per_s / limit[0]
    # With a slot for every adapter nobody waits for one, however many are active.
    slots = 0.0 if sums[_COUNT] <= limit[1] else _active(sums, t) / limit[1]
    sequences = max(t * sums[_OUTPUT] / limit[2], t * (sums[_OUTPUT] + sums[_INPUT]) / limit[3])
    return kv, slots, sequences


@compiled
def _longest_step(sums, limit, kv_per_s):  # type: ignore[no-untyped-def]
    """The step time at which the KV cache, the slots or the sequences are all in use."""
    t = min(_LONGEST_S, limit[0] / max(kv_per_s, 1e-12))
    t = min(t, limit[2] / max(sums[_OUTPUT], 1e-12))
    t = min(t, limit[3] / max(sums[_OUTPUT] + sums[_INPUT], 1e-12))
    if sums[_COUNT] > limit[1] and _active(sums, t) > limit[1]:
        low, high = math.log(_SHORTEST_S), math.log(t)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if _active(sums, math.exp(middle)) > limit[1]:
                high = middle
            else:
                low = middle
        t = math.exp(low)
    return max(t, _SHORTEST_S)


@compiled
def _solve_all(sums, who, rows, costs, limits, moments, rounding, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        row = rows[i]
        _solve(sums[who[i]], costs[row], limits[row], moments, rounding, out[i])


@compiled
def held_per_s(sums, moments, rounding):  # type: ignore[no-untyped-def]
    """KV tokens held per second of step time: a running request holds its input and on average
    half of what it will have written."""
    kv = moments[1] * sums[_IN_OUT] + 0.5 * moments[2] * sums[_OUT_OUT]
    return kv + rounding * sums[_OUTPUT]


@compiled
def _crossing(sums, cost, limit, kv_per_s, in_in, waiting):  # type: ignore[no-untyped-def]
    """The step time at which the server is as busy as the fullest of its limits.

    Busy falls with t and the limits rise, so their largest is smallest there. With `waiting` the
    slots are no limit.
    """
    low, high = math.log(_SHORTEST_S), math.log(_LONGEST_S)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        t = math.exp(middle)
        kv, slots, sequences = _limits(sums, limit, t, kv_per_s)
        most = max(kv, sequences) if waiting else max(kv, max(slots, sequences))
        if _busy(sums, cost, limit, t, kv_per_s, in_in) > most:
            low = middle
        else:
            high = middle
    return math.exp(high)


@compiled
def _settled(sums, cost, limit, kv_per_s, in_in, longest_s):  # type: ignore[no-untyped-def]
    """The step time, up to `longest_s`, at which the server is busy exactly all of the time."""
    low, high = math.log(_SHORTEST_S), math.log(longest_s)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if _busy(sums, cost, limit, math.exp(middle), kv_per_s, in_in) > 1.0:
            low = middle
        else:
            high = middle
    return math.exp(high)


@compiled
def fill_on(sums, costs, limits, row, kv_per_s, in_in):  # type: ignore[no-untyped-def]
    """The fill alone; just above 1e3 without a KV cache."""
    if limits[row, 0] <= 0.0:
        return 1e3
    t = _crossing(sums, costs[row], limits[row], kv_per_s, in_in, False)
    kv, slots, sequences = _limits(sums, limits[row], t, kv_per_s)
    busy = _busy(sums, costs[row], limits[row], t, kv_per_s, in_in)
    return max(max(busy, kv), max(slots, sequences))


@compiled
def _solve(sums, cost, limit, moments, rounding, out):  # type: ignore[no-untyped-def]
    out[:] = 0.0
    if limit[0] <= 0.0:
        out[:4] = 1e3
        out[14] = 1e3
        return
    kv_per_s = held_per_s(sums, moments, rounding)
    t = _crossing(sums, cost, limit, kv_per_s, moments[0], False)
    kv, slots, sequences = _limits(sums, limit, t, kv_per_s)
    busy = _busy(sums, cost, limit, t, kv_per_s, moments[0])
    out[0] = max(max(busy, kv), max(slots, sequences))
    out[1], out[2], out[3], out[13] = busy, kv, slots, sequences
    out[14] = out[0]
    if slots > 1.0:
        waiting_t = _crossing(sums, cost, limit, kv_per_s, moments[0], True)
        kv_then, _, sequences_then = _limits(sums, limit, waiting_t, kv_per_s)
        busy_then = _busy(sums, cost, limit, waiting_t, kv_per_s, moments[0])
        out[14] = max(busy_then, max(kv_then, sequences_then))
        out[15] = _slot_wait_ms(sums, cost, limit, kv_per_s, moments[0], waiting_t, out[14])
    # The step time at which the server settles: busy exactly all of the time, or the crossing
    # when it is overloaded.
    if out[0] < 1.0:
        t = _settled(sums, cost, limit, kv_per_s, moments[0], t)
        kv, slots, sequences = _limits(sums, limit, t, kv_per_s)
    out[4] = 1e3 * t
    out[5] = t * sums[_OUTPUT]
    out[6] = _active(sums, t)
    out[7] = kv
    out[8] = out[6] / limit[1]
    full_t = _longest_step(sums, limit, kv_per_s)
    load = _busy(sums, cost, limit, full_t, kv_per_s, moments[0])
    out[9] = load
    # Sequences come and go as in an M/G/infinity queue; each holds KV cache for a time and in an
    # amount that vary with its lengths.
    running = max(out[5], 1e-9)
    sigmas = (1.0 - kv) / max(kv, 1e-9) * math.sqrt(running / moments[2])
    out[10] = min(max(sigmas, -_MOST_SIGMAS), _MOST_SIGMAS)
    out[11] = _MOST_SIGMAS
    if sums[_COUNT] > limit[1]:
        spread = math.sqrt(max(out[6] * (1.0 - out[6] / sums[_COUNT]), 1e-2))
        out[11] = min(max((limit[1] - out[6]) / spread, -_MOST_SIGMAS), _MOST_SIGMAS)
    idle = max(1.0 - load, _LEAST_IDLE)
    out[12] = 1e3 * 0.5 * (1.0 + moments[2]) * load / (idle * max(sums[_RATE], 1e-6))


@compiled
def _slot_wait_ms(sums, cost, limit, kv_per_s, in_in, t, fill):  # type: ignore[no-untyped-def]
    """How long requests wait for a slot so that those of an adapter gather and the slots suffice.

    `t` is the step time of the crossing; where the server is not full, steps are shorter.
    """
    if fill < 1.0:
        t = _settled(sums, cost, limit, kv_per_s, in_in, t)
    low, high = 0.0, math.log(_LONGEST_WAIT)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        stretch = math.exp(middle)
        if _active(sums, t * stretch) > limit[1] * stretch:
            low = middle
        else:
            high = middle
    running_s = t * sums[_OUTPUT] / max(sums[_RATE], 1e-12)
    return 1e3 * (math.exp(high) - 1.0) * running_s
