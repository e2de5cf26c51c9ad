"""Which tokens reach the client as one chunk, because the API server was busy.

The client measures gaps between chunks. Of k steps that end while the front is busy, all tokens of
a request leave together when it is free again: k gaps become one.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.front import forget_stalls, scrape_until
from maitre.twin.kernel.statistics import bin_of, record_gaps


@compiled
def _ends_by(first_s, growth_s, steps, span_s):  # type: ignore[no-untyped-def]
    """How many of `steps` steps (first, first + growth, ...) end within `span_s`."""
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
def deliver_steps(sim, limits, first_s, growth_s, steps):  # type: ignore[no-untyped-def]
    """Counts the gaps that the client sees over `steps` steps that start now."""
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
        server.merged_gaps += held * sequences
        settled = end
        if to_s > now_s + span_s:
            break
        place += 1
    record_gaps(sim, first_s + growth_s * settled, growth_s, steps - settled, sequences)
    forget_stalls(sim, place)
