"""Which tokens reach the client as one chunk, because the API server was busy.

The client measures gaps between chunks. Of k steps that end while the front is busy, the tokens
leave when it is free again. vLLM processes the outputs of a step in slices of 128 sequences and
lets other tasks run between slices: with more sequences the k tokens of a request leave one by one
in quick succession, with fewer they leave as one chunk and k gaps become one.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.front import forget_stalls, scrape_until
from maitre.twin.kernel.statistics import bin_of, record_gaps

# VLLM_V1_OUTPUT_PROC_CHUNK_SIZE: outputs processed before other tasks of the loop may run.
OUTPUT_SLICE = 128
# Time between two tokens of a request that had piled up.
BURST_GAP_S = 0.005


@compiled
def _ends_by(first_s, growth_s, steps, span_s):
    """Return how many of `steps` steps (first, first + growth, ...) end within `span_s`."""
    if span_s < first_s:
        return 0
    n = int(span_s / first_s)
    if growth_s > 0.0:
        half = 0.5 * growth_s
        b = first_s - half
        n = int((-b + (b * b + 4.0 * half * span_s) ** 0.5) / (2.0 * half))
    n = min(max(n, 0), steps)
    while n > 0 and n * first_s + growth_s * (0.5 * n * (n - 1)) > span_s:
        n -= 1
    while n < steps and (n + 1) * first_s + growth_s * (0.5 * (n + 1) * n) <= span_s:
        n += 1
    return n


@compiled
def deliver_steps(sim, limits, first_s, growth_s, steps):
    """Count the gaps that the client sees over `steps` steps that start now."""
    server, stalls = sim.server[0], sim.stalls
    sequences, now_s = server.decoding, server.now_s
    span_s = steps * first_s + growth_s * (0.5 * steps * (steps - 1))
    scrape_until(sim, limits, now_s + span_s)
    settled = 0
    place = 0
    while place < server.stalls and stalls[place].from_s <= now_s + span_s:
        from_s, to_s = stalls[place].from_s, stalls[place].to_s
        start = max(_ends_by(first_s, growth_s, steps, from_s - now_s), settled)
        end = max(_ends_by(first_s, growth_s, steps, to_s - now_s), settled)
        record_gaps(sim, first_s + growth_s * settled, growth_s, start - settled, sequences)
        held = end - start
        if held > 0 and not stalls[place].pending:
            stalls[place].pending = 1
            sim.itl_bins[bin_of(to_s - from_s + 0.5 * first_s)] += sequences
            held -= 1
        if held > 0 and sequences > OUTPUT_SLICE:
            sim.itl_bins[bin_of(BURST_GAP_S)] += held * sequences
        elif held > 0:
            server.merged_gaps += held * sequences
        settled = end
        if to_s > now_s + span_s:
            break
        place += 1
    record_gaps(sim, first_s + growth_s * settled, growth_s, steps - settled, sequences)
    forget_stalls(sim, place)
