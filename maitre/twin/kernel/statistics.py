"""What is measured: latencies of completed requests, integrals over time, samples.

The measure follows the client of the published runs: time to first token and inter-token latency
count requests that completed within the run; a gap between tokens is one engine step.
"""

import math

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import (
    ADAPTER_BIN_RATIO,
    BIN_RATIO,
    FIRST_BIN_MS,
    N_ADAPTER_BINS,
    N_BINS,
)

_LOG_RATIO = math.log(BIN_RATIO)
_LOG_ADAPTER_RATIO = math.log(ADAPTER_BIN_RATIO)


@compiled
def bin_of(latency_s):
    """Return the histogram bin of a latency."""
    ms = latency_s * 1e3
    if ms <= FIRST_BIN_MS:
        return 0
    return min(int(math.log(ms / FIRST_BIN_MS) / _LOG_RATIO) + 1, N_BINS - 1)


@compiled
def _adapter_bin_of(latency_s):
    ms = latency_s * 1e3
    if ms <= FIRST_BIN_MS:
        return 0
    return min(int(math.log(ms / FIRST_BIN_MS) / _LOG_ADAPTER_RATIO) + 1, N_ADAPTER_BINS - 1)


@compiled
def record_gaps(sim, first_s, growth_s, steps, per_step):
    """Count `per_step` gaps in each of `steps` steps lasting first, first + growth, ..."""
    if steps <= 0 or per_step == 0:
        return
    bins = sim.itl_bins
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
def record_completion(sim, limits, request, now):
    """Count a request whose last token left the engine at `now`."""
    r = sim.requests[request]
    if now + limits.egress_s > limits.duration_s:
        return
    server = sim.server[0]
    ttft_s = r.first_token_s - r.arrival_s
    tokens = r.input_tokens + r.output_tokens
    server.completed += 1
    server.input_done += r.input_tokens
    server.output_done += r.output_tokens
    server.ttft_sum_s += ttft_s
    server.itl_sum_s += max(now - r.first_token_s, 0.0)
    server.itl_gaps += r.output_tokens - 1
    sim.ttft_bins[bin_of(ttft_s)] += 1
    adapter = r.adapter
    sim.adapters[adapter].completed += 1
    sim.adapters[adapter].tokens_done += tokens
    sim.adapters[adapter].ttft_sum_s += ttft_s
    sim.adapters[adapter].latency_sum_s += now - r.arrival_s
    sim.adapter_bins[adapter, _adapter_bin_of(ttft_s)] += 1


@compiled
def record_span(sim, limits, span_s, blocks_used, blocks_growth, busy):
    """Integrate over a span that starts now, and sample the timeline at its grid times."""
    server = sim.server[0]
    start_s = server.now_s
    inside_s = min(span_s, limits.duration_s - start_s)
    server.running_area += server.running * inside_s
    server.active_area += server.active * inside_s
    server.kv_area += (blocks_used + 0.5 * blocks_growth) * inside_s
    if busy:
        server.busy_s += inside_s
    row = server.next_sample
    while row < len(sim.timeline) and row * limits.sample_s < start_s + span_s:
        at_s = row * limits.sample_s
        part = (at_s - start_s) / span_s if span_s > 0.0 else 0.0
        sim.timeline[row].t_s = at_s
        sim.timeline[row].running = server.running
        sim.timeline[row].waiting = server.waiting
        sim.timeline[row].blocks = blocks_used + part * blocks_growth
        sim.timeline[row].active = server.active
        sim.timeline[row].tokens_done = server.input_done + server.output_done
        row += 1
    server.next_sample = row


@compiled
def blocks_in_use(sim, limits):
    """Return the KV blocks held."""
    return limits.total_blocks - sim.server[0].free_blocks
