"""A server in steady state, from averages alone: the physics that the learned model starts from.

With request rate lambda, mean step time t (s) and the step cost of the twin
(`maitre.twin`), the averages over steps obey

    sequences   B = t * output_tps
    KV tokens   K = t * (c1 * input_output + c2 * output_output) + block rounding * B
    adapters    L(t) = sum_i 1 - exp(-r_i output_i t)
    busy        u_time(t) = [c0 + c_adapter L(t)] / t + (cost per request) * lambda

A server is sustainable when at some t it is busy for no more than all of the time while K fits
its KV cache, L its slots and B `max_num_seqs`. `fill` is the smallest over t of the largest of
those four fractions: up to 1 the averages can be met, above 1 they cannot. Fluctuations, which
averages do not know, are what the learned model adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from maitre.maxpack.features import FIRST_ACTIVE, STEP_TIMES_S, TERMS, SetSums

_RATE, _INPUT, _OUTPUT = (TERMS.index(name) for name in ("rate_rps", "input_tps", "output_tps"))
_IN_OUT, _OUT_OUT = TERMS.index("input_output"), TERMS.index("output_output")
_COUNT = TERMS.index("adapters")
_LOG_FIRST = math.log(STEP_TIMES_S[0])
_LOG_RATIO = math.log(STEP_TIMES_S[1] / STEP_TIMES_S[0])
_N_STEPS = len(STEP_TIMES_S)
_BISECTIONS = 28

COST_COLUMNS = (
    "floor_ms",
    "base_ms",
    "per_sequence_ms",
    "per_kv_token_ms",
    "lora_ms",
    "per_adapter_ms",
    "lora_per_sequence_ms",
    "prefill_ms",
    "per_prefill_token_ms",
    "kv_cache_tokens",
    "max_loras",
    "max_num_seqs",
    "max_num_batched_tokens",
)
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
)


@dataclass(frozen=True)
class LengthMoments:
    """What the length distribution adds to the means.

    `input_output` is E[in out] / (E[in] E[out]) and `output_output` E[out^2] / E[out]^2; both
    enter the KV tokens that a running request holds on average. `block_tokens` is the KV block.
    """

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
            float((inputs * outputs).mean() / (mean_in * mean_out)),
            float((outputs**2).mean() / mean_out**2),
            block_tokens,
        )


def fluid_features(
    sets: SetSums, costs: np.ndarray, config_rows: np.ndarray, moments: LengthMoments
) -> np.ndarray:
    """Steady-state averages of each set on its configuration: (sets, len(FLUID_FEATURES)).

    `costs` has one row a configuration with columns `COST_COLUMNS`; `config_rows` names each
    set's. An impossible configuration (no KV cache) gets `fill` 1e3.
    """
    out = np.empty((len(sets), len(FLUID_FEATURES)))
    _solve_all(
        np.ascontiguousarray(sets.sums),
        np.ascontiguousarray(costs),
        np.ascontiguousarray(config_rows, dtype=np.int64),
        moments.input_output,
        moments.output_output,
        0.5 * (moments.block_tokens - 1),
        out,
    )
    return out


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _busy(sums, cost, t, kv_per_s):  # type: ignore[no-untyped-def]
    """Busy seconds per second when a step takes t seconds."""
    sequences = t * sums[_OUTPUT]
    step_ms = max(cost[0], cost[1] + cost[2] * sequences) + cost[3] * t * kv_per_s
    step_ms += cost[4] + cost[5] * _active(sums, t) + cost[6] * sequences
    step_ms += cost[7] * -math.expm1(-t * sums[_RATE]) + cost[8] * t * sums[_INPUT]
    return step_ms * 1e-3 / t


@numba.njit(cache=True, nogil=True)
def _limits(sums, cost, t, kv_per_s):  # type: ignore[no-untyped-def]
    """Fractions of the KV cache, the slots and the sequences in use at step time t."""
    kv = t * kv_per_s / cost[9]
    # With a slot for every adapter nobody waits for one, however many are active.
    slots = 0.0 if sums[_COUNT] <= cost[10] else _active(sums, t) / cost[10]
    sequences = max(t * sums[_OUTPUT] / cost[11], t * (sums[_OUTPUT] + sums[_INPUT]) / cost[12])
    return kv, slots, sequences


@numba.njit(cache=True, nogil=True)
def _solve_all(sums, costs, rows, c_in_out, c_out_out, rounding, out):  # type: ignore[no-untyped-def]
    for i in range(sums.shape[0]):
        _solve(sums[i], costs[rows[i]], c_in_out, c_out_out, rounding, out[i])


@numba.njit(cache=True, nogil=True)
def _solve(sums, cost, c_in_out, c_out_out, rounding, out):  # type: ignore[no-untyped-def]
    out[:] = 0.0
    if cost[9] <= 0.0:
        out[:4] = 1e3
        return
    # A running request holds its input and on average half of what it will have written.
    kv_per_s = c_in_out * sums[_IN_OUT] + 0.5 * c_out_out * sums[_OUT_OUT]
    kv_per_s += rounding * sums[_OUTPUT]
    # Busy falls with t and the limits rise, so their largest is smallest where they cross.
    low, high = math.log(1e-3), math.log(60.0)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        t = math.exp(middle)
        kv, slots, sequences = _limits(sums, cost, t, kv_per_s)
        if _busy(sums, cost, t, kv_per_s) > max(kv, max(slots, sequences)):
            low = middle
        else:
            high = middle
    t = math.exp(high)
    kv, slots, sequences = _limits(sums, cost, t, kv_per_s)
    busy = _busy(sums, cost, t, kv_per_s)
    out[0] = max(max(busy, kv), max(slots, sequences))
    out[1], out[2], out[3] = busy, kv, slots
    # The step time at which the server settles: busy exactly all of the time, or the crossing
    # when it is overloaded.
    if out[0] < 1.0:
        low, high = math.log(1e-3), high
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            if _busy(sums, cost, math.exp(middle), kv_per_s) > 1.0:
                low = middle
            else:
                high = middle
        t = math.exp(high)
        kv, slots, sequences = _limits(sums, cost, t, kv_per_s)
    out[4] = 1e3 * t
    out[5] = t * sums[_OUTPUT]
    out[6] = _active(sums, t)
    out[7] = kv
    out[8] = out[6] / cost[10]
