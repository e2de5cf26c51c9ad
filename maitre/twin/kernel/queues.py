"""The waiting queue: first come first served, passing over requests whose adapter has no slot.

vLLM scans its one waiting queue every step. The same order comes from one queue an adapter and two
heaps over the adapters' oldest requests: those with an adapter in the running batch (`ACTIVE`,
always admissible) and the others (`IDLE`, admissible while a slot is free).
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import QUEUED

IDLE, ACTIVE = 0, 1


@compiled
def _age(sim, adapter):
    """Return the place in the waiting order of an adapter's oldest request."""
    return sim.requests[sim.adapters[adapter].queue_head].sequence


@compiled
def _sift_up(sim, kind, place):
    heap = sim.heads[kind]
    adapter = heap[place]
    age = _age(sim, adapter)
    while place > 0:
        parent = (place - 1) >> 1
        other = heap[parent]
        if _age(sim, other) <= age:
            break
        heap[place] = other
        sim.adapters[other].heap_place = place
        place = parent
    heap[place] = adapter
    sim.adapters[adapter].heap_place = place


@compiled
def _sift_down(sim, kind, size, place):
    heap = sim.heads[kind]
    adapter = heap[place]
    age = _age(sim, adapter)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _age(sim, heap[child + 1]) < _age(sim, heap[child]):
            child += 1
        other = heap[child]
        if _age(sim, other) >= age:
            break
        heap[place] = other
        sim.adapters[other].heap_place = place
        place = child
    heap[place] = adapter
    sim.adapters[adapter].heap_place = place


@compiled
def _heap_add(sim, adapter):
    server = sim.server[0]
    if sim.adapters[adapter].running > 0:
        kind, place = ACTIVE, server.active_heads
        server.active_heads = place + 1
    else:
        kind, place = IDLE, server.idle_heads
        server.idle_heads = place + 1
    sim.adapters[adapter].heap = kind
    sim.heads[kind, place] = adapter
    _sift_up(sim, kind, place)


@compiled
def _heap_remove(sim, adapter):
    server = sim.server[0]
    kind, place = sim.adapters[adapter].heap, sim.adapters[adapter].heap_place
    if kind == ACTIVE:
        size = server.active_heads - 1
        server.active_heads = size
    else:
        size = server.idle_heads - 1
        server.idle_heads = size
    sim.adapters[adapter].heap_place = -1
    if place != size:
        moved = sim.heads[kind, size]
        sim.heads[kind, place] = moved
        sim.adapters[moved].heap_place = place
        _sift_up(sim, kind, place)
        _sift_down(sim, kind, size, sim.adapters[moved].heap_place)


@compiled
def refile(sim, adapter):
    """Move an adapter to the heap that fits whether it runs; call this when that has changed."""
    if sim.adapters[adapter].heap_place >= 0:
        _heap_remove(sim, adapter)
        _heap_add(sim, adapter)


@compiled
def _count_waiting(sim, adapter, change):
    sim.server[0].waiting += change
    sim.adapters[adapter].waiting += change
    if sim.adapters[adapter].running > 0:
        sim.server[0].waiting_active += change


@compiled
def push_back(sim, request):
    """Add a new request to the end of the waiting queue."""
    server = sim.server[0]
    adapter = sim.requests[request].adapter
    sim.requests[request].sequence = server.next_sequence
    server.next_sequence += 1
    sim.requests[request].next_waiting = -1
    sim.requests[request].status = QUEUED
    _count_waiting(sim, adapter, 1)
    tail = sim.adapters[adapter].queue_tail
    sim.adapters[adapter].queue_tail = request
    if tail < 0:
        sim.adapters[adapter].queue_head = request
        server.sets_hash ^= sim.adapters[adapter].waiting_key
        _heap_add(sim, adapter)
    else:
        sim.requests[tail].next_waiting = request


@compiled
def push_front(sim, request):
    """Put a preempted request before all that wait."""
    server = sim.server[0]
    adapter = sim.requests[request].adapter
    sim.requests[request].sequence = server.front_sequence
    server.front_sequence -= 1
    sim.requests[request].status = QUEUED
    _count_waiting(sim, adapter, 1)
    if sim.adapters[adapter].heap_place >= 0:
        _heap_remove(sim, adapter)
    head = sim.adapters[adapter].queue_head
    sim.requests[request].next_waiting = head
    if head < 0:
        sim.adapters[adapter].queue_tail = request
        server.sets_hash ^= sim.adapters[adapter].waiting_key
    sim.adapters[adapter].queue_head = request
    _heap_add(sim, adapter)


@compiled
def pop_head(sim, adapter):
    """Take an adapter's oldest request from the queue, and the adapter from its heap.

    The caller counts the request as running and then calls `file`.
    """
    request = sim.adapters[adapter].queue_head
    _heap_remove(sim, adapter)
    follower = sim.requests[request].next_waiting
    sim.adapters[adapter].queue_head = follower
    if follower < 0:
        sim.adapters[adapter].queue_tail = -1
        sim.server[0].sets_hash ^= sim.adapters[adapter].waiting_key
    _count_waiting(sim, adapter, -1)
    return request


@compiled
def file(sim, adapter):
    """Put an adapter that is in no heap into the right one, if it has waiting requests."""
    if sim.adapters[adapter].queue_head >= 0:
        _heap_add(sim, adapter)


@compiled
def first_admissible(sim, slot_free):
    """Return the adapter of the oldest request that can be admitted, or -1."""
    server = sim.server[0]
    best = -1
    if server.active_heads > 0:
        best = sim.heads[ACTIVE, 0]
    if slot_free and server.idle_heads > 0:
        other = sim.heads[IDLE, 0]
        if best < 0 or _age(sim, other) < _age(sim, best):
            best = other
    return best


@compiled
def passed_over(sim, sequence):
    """Return about how many requests without a slot wait before this place of the order.

    They are taken to be spread evenly between the oldest of them and the end of the queue.
    """
    server = sim.server[0]
    if server.idle_heads == 0:
        return 0.0
    oldest = _age(sim, sim.heads[IDLE, 0])
    if sequence <= oldest:
        return 0.0
    share = (sequence - oldest) / (server.next_sequence - oldest)
    return (server.waiting - server.waiting_active) * min(share, 1.0)
