"""What is measured: latencies of completed requests, integrals over time, samples.

The measure follows the client of the published runs: time to first token and inter-token latency
count requests that completed within the run; a gap between tokens is one engine step.
"""

import math

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import (
    ACTIVE,
    ACTIVE_AREA,
    ADAPTER_BIN_RATIO,
    BIN_RATIO,
    BUSY,
    COMPLETED,
    FIRST_BIN_MS,
    FREE_BLOCKS,
    INPUT_DONE,
    ITL_GAPS,
    ITL_SUM,
    KV_AREA,
    N_ADAPTER_BINS,
    N_BINS,
    NEXT_SAMPLE,
    OUTPUT_DONE,
    RUNNING,
    RUNNING_AREA,
    TTFT_SUM,
    WAITING,
)

_LOG_RATIO = math.log(BIN_RATIO)
_LOG_ADAPTER_RATIO = math.log(ADAPTER_BIN_RATIO)


@compiled
def bin_of(latency_s):  # type: ignore[no-untyped-def]
    """The histogram bin of a latency."""
    ms = latency_s * 1e3
    if ms <= FIRST_BIN_MS:
        return 0
    return min(int(math.log(ms / FIRST_BIN_MS) / _LOG_RATIO) + 1, N_BINS - 1)


@compiled
def _adapter_bin_of(latency_s):  # type: ignore[no-untyped-def]
    ms = latency_s * 1e3
    if ms <= FIRST_BIN_MS:
        return 0
    return min(int(math.log(ms / FIRST_BIN_MS) / _LOG_ADAPTER_RATIO) + 1, N_ADAPTER_BINS - 1)


@compiled
def record_gaps(state, first_s, growth_s, steps, per_step):  # type: ignore[no-untyped-def]
    """Counts `per_step` gaps in each of `steps` steps lasting first, first + growth, ..."""
    bins = state.itl_bins
    place = bin_of(first_s)
    last = bin_of(first_s + growth_s * (steps - 1)) if growth_s > 0.0 else place
    done = 0
    while place < last and done < steps:
        edge_s = FIRST_BIN_MS * 1e-3 * BIN_RATIO**place
        inside = int((edge_s - first_s) / growth_s) + 1
        inside = min(max(inside, done), steps)
        bins[place] += per_step * (inside - done)
        done = inside
        place += 1
    bins[last] += per_step * (steps - done)


@compiled
def record_completion(pool, state, limits, request, now):  # type: ignore[no-untyped-def]
    """Counts a request whose last token left the engine at `now`."""
    if now + limits.egress_s > limits.duration_s:
        return
    whole, real, adapters = state.whole, state.real, state.adapters
    ttft_s = pool.first_token_s[request] + limits.egress_s - pool.arrival_s[request]
    tokens = pool.input_tokens[request] + pool.output_tokens[request]
    whole[COMPLETED] += 1
    whole[INPUT_DONE] += pool.input_tokens[request]
    whole[OUTPUT_DONE] += pool.output_tokens[request]
    real[TTFT_SUM] += ttft_s
    real[ITL_SUM] += now - pool.first_token_s[request]
    whole[ITL_GAPS] += pool.output_tokens[request] - 1
    state.ttft_bins[bin_of(ttft_s)] += 1
    adapter = pool.adapter[request]
    adapters.completed[adapter] += 1
    adapters.tokens_done[adapter] += tokens
    adapters.ttft_sum_s[adapter] += ttft_s
    adapters.latency_sum_s[adapter] += now - pool.arrival_s[request]
    adapters.ttft_bins[adapter, _adapter_bin_of(ttft_s)] += 1


@compiled
def record_span(state, limits, span_s, blocks_used, blocks_growth, busy):  # type: ignore[no-untyped-def]
    """Integrates over a span that starts now, and samples the timeline at its grid times."""
    whole, real = state.whole, state.real
    start_s = real[0]
    inside_s = min(span_s, limits.duration_s - start_s)
    real[RUNNING_AREA] += whole[RUNNING] * inside_s
    real[ACTIVE_AREA] += whole[ACTIVE] * inside_s
    real[KV_AREA] += (blocks_used + 0.5 * blocks_growth) * inside_s
    if busy:
        real[BUSY] += inside_s
    row = whole[NEXT_SAMPLE]
    while row < len(state.timeline) and row * limits.sample_s < start_s + span_s:
        at_s = row * limits.sample_s
        part = (at_s - start_s) / span_s if span_s > 0.0 else 0.0
        state.timeline[row, 0] = at_s
        state.timeline[row, 1] = whole[RUNNING]
        state.timeline[row, 2] = whole[WAITING]
        state.timeline[row, 3] = blocks_used + part * blocks_growth
        state.timeline[row, 4] = whole[ACTIVE]
        state.timeline[row, 5] = whole[INPUT_DONE] + whole[OUTPUT_DONE]
        row += 1
    whole[NEXT_SAMPLE] = row


@compiled
def blocks_in_use(state, limits):  # type: ignore[no-untyped-def]
    """KV blocks held."""
    return limits.total_blocks - state.whole[FREE_BLOCKS]
