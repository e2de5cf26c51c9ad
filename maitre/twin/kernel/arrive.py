"""Requests reach the server, or the client's limit, or are too large to be served at all."""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.queues import push_back
from maitre.twin.kernel.state import (
    IN_FLIGHT,
    LOST,
    MAX_WAITING,
    NEXT_ARRIVAL,
    OFFERED,
    OFFERED_TOKENS,
    POOL_FREE,
    UNSERVABLE,
    WAITING,
    WAITING_AREA,
)


@compiled
def take_arrival(pool, state, limits, arrivals):  # type: ignore[no-untyped-def]
    """Takes the next arrival; False (and nothing done) if the pool has no row for it."""
    whole, adapters = state.whole, state.adapters
    place = whole[NEXT_ARRIVAL]
    adapter = arrivals.adapter[place]
    tokens = arrivals.input_tokens[place] + arrivals.output_tokens[place]
    lost = whole[IN_FLIGHT] >= limits.max_in_flight
    unservable = tokens > min(limits.total_blocks * limits.block_tokens, limits.max_model_len)
    request = whole[POOL_FREE]
    if not lost and not unservable and request < 0:
        return False
    whole[NEXT_ARRIVAL] = place + 1
    whole[OFFERED] += 1
    whole[OFFERED_TOKENS] += tokens
    adapters.offered[adapter] += 1
    adapters.tokens_offered[adapter] += tokens
    if lost:
        whole[LOST] += 1
        return True
    if unservable:
        whole[UNSERVABLE] += 1
        return True
    whole[POOL_FREE] = pool.next_waiting[request]
    whole[IN_FLIGHT] += 1
    pool.arrival_s[request] = arrivals.arrival_s[place]
    pool.input_tokens[request] = arrivals.input_tokens[place]
    pool.output_tokens[request] = arrivals.output_tokens[place]
    pool.done_tokens[request] = 0
    pool.computed[request] = 0
    pool.adapter[request] = adapter
    push_back(pool, state, request)
    state.real[WAITING_AREA] -= arrivals.arrival_s[place] + limits.ingress_s
    whole[MAX_WAITING] = max(whole[MAX_WAITING], whole[WAITING])
    return True
