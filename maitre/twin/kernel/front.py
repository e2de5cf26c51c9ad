"""The API server in front of the engine: one event loop, doing one thing at a time.

It parses and tokenises requests in order of arrival, loads an adapter's tokeniser when it first
hears of the adapter, answers each scrape of its metrics, and hands tokens on. vLLM keeps a metric
series for every distinct pair of (adapters running, adapters waiting) it has reported, and renders
all of them at each scrape; so the stall of a scrape grows as a server with many adapters gets
older. While the loop is busy, new requests do not reach the engine, first tokens do not reach the
client, and the tokens of one request pile up and leave as one chunk.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.queues import push_back
from maitre.twin.kernel.state import FRONT


@compiled
def forget_stalls(sim, count):
    """Drop the first `count` recorded stalls."""
    server, stalls = sim.server[0], sim.stalls
    if count > 0:
        for place in range(count, server.stalls):
            stalls[place - count].from_s = stalls[place].from_s
            stalls[place - count].to_s = stalls[place].to_s
            stalls[place - count].pending = stalls[place].pending
        server.stalls -= count


@compiled
def _occupy(sim, at_s, work_s, noted):
    """Give the front `work_s` of work at `at_s`; record the stall if it is one or prolongs one."""
    server, stalls = sim.server[0], sim.stalls
    start_s = max(at_s, server.front_free_s)
    server.front_free_s = start_s + work_s
    last = server.stalls - 1
    if last >= 0 and stalls[last].to_s >= start_s:
        stalls[last].to_s = server.front_free_s
    elif noted:
        if server.stalls == len(stalls):
            forget_stalls(sim, 1)
        last = server.stalls
        stalls[last].from_s = start_s
        stalls[last].to_s = server.front_free_s
        stalls[last].pending = 0
        server.stalls = last + 1


@compiled
def scrape_until(sim, limits, at_s):
    """Run the scrapes due by `at_s`; each starts an interval after the one before ended."""
    server = sim.server[0]
    while server.next_scrape_s <= at_s:
        _occupy(sim, server.next_scrape_s, server.scrape_s, True)
        server.next_scrape_s = server.front_free_s + limits.scrape_interval_s


@compiled
def note_series(sim, limits):
    """Count a pair of adapter sets that was not reported before.

    The sets are known by a hash that changes with them; those seen are marked in a bit table,
    with a linear-counting correction for the share of the table that is already marked.
    """
    server = sim.server[0]
    if limits.scrape_interval_s <= 0.0:
        return
    spot = (server.sets_hash ^ (server.sets_hash >> 29)) & (len(sim.series_seen) - 1)
    if sim.series_seen[spot]:
        return
    sim.series_seen[spot] = True
    unmarked = 1.0 - server.series_marked / len(sim.series_seen)
    server.series_marked += 1
    server.series += 1.0 / unmarked
    names = server.active + server.active_heads + server.idle_heads
    server.scrape_s += (limits.series_s + limits.series_name_s * names) / unmarked


@compiled
def send(sim, limits, arrivals):
    """Send the client's next request; return False (and change nothing) if there is no free row.

    A request over the client's limit is lost; one that fits no empty KV cache is refused.
    """
    server = sim.server[0]
    place = server.next_arrival
    adapter = arrivals.adapter[place]
    tokens = arrivals.input_tokens[place] + arrivals.output_tokens[place]
    lost = server.in_flight >= limits.max_in_flight
    unservable = tokens > min(limits.total_blocks * limits.block_tokens, limits.max_model_len)
    request = server.free_request
    if not lost and not unservable and request < 0:
        return False
    server.next_arrival = place + 1
    server.offered += 1
    server.offered_tokens += tokens
    sim.adapters[adapter].offered += 1
    sim.adapters[adapter].tokens_offered += tokens
    if lost:
        server.lost += 1
        return True
    if unservable:
        server.unservable += 1
        return True
    r = sim.requests[request]
    server.free_request = r.next_waiting
    server.in_flight += 1
    r.arrival_s = arrivals.arrival_s[place]
    r.input_tokens = arrivals.input_tokens[place]
    r.output_tokens = arrivals.output_tokens[place]
    r.done_tokens = 0
    r.computed = 0
    r.adapter = adapter
    scrape_until(sim, limits, r.arrival_s)
    _occupy(sim, r.arrival_s, limits.ingress_s, False)
    if not sim.adapters[adapter].known:
        sim.adapters[adapter].known = 1
        _occupy(sim, r.arrival_s, limits.first_use_s, True)
    r.visible_s = server.front_free_s + limits.transit_s
    r.status = FRONT
    r.next_waiting = -1
    if server.front_tail < 0:
        server.front_head = request
    else:
        sim.requests[server.front_tail].next_waiting = request
    server.front_tail = request
    return True


@compiled
def receive(sim):
    """Give the engine the request that the front has finished with first."""
    server = sim.server[0]
    request = server.front_head
    server.front_head = sim.requests[request].next_waiting
    if server.front_head < 0:
        server.front_tail = -1
    server.waiting_area -= sim.requests[request].visible_s
    push_back(sim, request)
    server.max_waiting = max(server.max_waiting, server.waiting)


@compiled
def delivered_s(sim, limits, at_s):
    """Return when a token that left the engine at `at_s` reaches the client."""
    scrape_until(sim, limits, at_s)
    server = sim.server[0]
    return (
        max(at_s, server.front_free_s)
        + limits.egress_s
        + limits.egress_per_sequence_s * (server.running)
    )
