"""Requests reach the server, or the client's limit, or are too large to be served at all."""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.queues import push_back


@compiled
def take_arrival(sim, limits, arrivals):  # type: ignore[no-untyped-def]
    """Takes the next arrival; False (and nothing done) if there is no free row for it."""
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
    server.free_request = sim.requests[request].next_waiting
    server.in_flight += 1
    sim.requests[request].arrival_s = arrivals.arrival_s[place]
    sim.requests[request].input_tokens = arrivals.input_tokens[place]
    sim.requests[request].output_tokens = arrivals.output_tokens[place]
    sim.requests[request].done_tokens = 0
    sim.requests[request].computed = 0
    sim.requests[request].adapter = adapter
    push_back(sim, request)
    server.waiting_area -= arrivals.arrival_s[place] + limits.ingress_s
    server.max_waiting = max(server.max_waiting, server.waiting)
    return True
