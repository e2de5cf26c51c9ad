"""The waiting queue (first come first served, by adapter) and the running list.

vLLM scans its one waiting queue every step and skips requests whose adapter finds no slot. The
same order comes from one queue an adapter and two heaps over the adapters' oldest requests: those
with an adapter in the running batch (`active`, always admissible) and the others (`idle`,
admissible while a slot is free).
"""

import numpy as np

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import (
    DECODES,
    FINISH_HEAP,
    FRONT_SEQ,
    HEAP_ACTIVE,
    HEAP_IDLE,
    NEXT_SEQ,
    QUEUED,
    RUN_HEAD,
    RUN_TAIL,
    RUNNING,
    WAITING,
)


@compiled
def _head_sequence(pool, adapters, adapter):  # type: ignore[no-untyped-def]
    return pool.sequence[adapters.queue_head[adapter]]


@compiled
def _sift_up(pool, adapters, heap, place):  # type: ignore[no-untyped-def]
    adapter = heap[place]
    key = _head_sequence(pool, adapters, adapter)
    while place > 0:
        parent = (place - 1) >> 1
        other = heap[parent]
        if _head_sequence(pool, adapters, other) <= key:
            break
        heap[place] = other
        adapters.heap_place[other] = place
        place = parent
    heap[place] = adapter
    adapters.heap_place[adapter] = place


@compiled
def _sift_down(pool, adapters, heap, size, place):  # type: ignore[no-untyped-def]
    adapter = heap[place]
    key = _head_sequence(pool, adapters, adapter)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _head_sequence(pool, adapters, heap[child + 1]) < _head_sequence(
            pool, adapters, heap[child]
        ):
            child += 1
        other = heap[child]
        if _head_sequence(pool, adapters, other) >= key:
            break
        heap[place] = other
        adapters.heap_place[other] = place
        place = child
    heap[place] = adapter
    adapters.heap_place[adapter] = place


@compiled
def _heap_add(pool, state, adapter):  # type: ignore[no-untyped-def]
    adapters = state.adapters
    if adapters.running[adapter] > 0:
        counter, heap = HEAP_ACTIVE, adapters.heap_active
    else:
        counter, heap = HEAP_IDLE, adapters.heap_idle
    adapters.heap_kind[adapter] = counter
    place = state.whole[counter]
    heap[place] = adapter
    state.whole[counter] = place + 1
    _sift_up(pool, adapters, heap, place)


@compiled
def _heap_remove(pool, state, adapter):  # type: ignore[no-untyped-def]
    """Takes out an adapter; its queue must still have its old head or a later one."""
    adapters = state.adapters
    counter = adapters.heap_kind[adapter]
    heap = adapters.heap_active if counter == HEAP_ACTIVE else adapters.heap_idle
    place = adapters.heap_place[adapter]
    size = state.whole[counter] - 1
    state.whole[counter] = size
    adapters.heap_place[adapter] = -1
    if place != size:
        moved = heap[size]
        heap[place] = moved
        adapters.heap_place[moved] = place
        _sift_up(pool, adapters, heap, place)
        _sift_down(pool, adapters, heap, size, adapters.heap_place[moved])


@compiled
def refile(pool, state, adapter):  # type: ignore[no-untyped-def]
    """Moves an adapter to the heap that fits whether it runs; call when that has changed."""
    if state.adapters.heap_place[adapter] >= 0:
        _heap_remove(pool, state, adapter)
        _heap_add(pool, state, adapter)


@compiled
def push_back(pool, state, request):  # type: ignore[no-untyped-def]
    """A new request joins the end of the waiting queue."""
    adapters = state.adapters
    adapter = pool.adapter[request]
    pool.sequence[request] = state.whole[NEXT_SEQ]
    state.whole[NEXT_SEQ] += 1
    pool.next_waiting[request] = -1
    pool.status[request] = QUEUED
    state.whole[WAITING] += 1
    if adapters.queue_head[adapter] < 0:
        adapters.queue_head[adapter] = request
        adapters.queue_tail[adapter] = request
        _heap_add(pool, state, adapter)
    else:
        pool.next_waiting[adapters.queue_tail[adapter]] = request
        adapters.queue_tail[adapter] = request


@compiled
def push_front(pool, state, request):  # type: ignore[no-untyped-def]
    """A preempted request goes before all that wait."""
    adapters = state.adapters
    adapter = pool.adapter[request]
    pool.sequence[request] = state.whole[FRONT_SEQ]
    state.whole[FRONT_SEQ] -= 1
    pool.status[request] = QUEUED
    state.whole[WAITING] += 1
    if adapters.heap_place[adapter] >= 0:
        _heap_remove(pool, state, adapter)
    pool.next_waiting[request] = adapters.queue_head[adapter]
    if adapters.queue_head[adapter] < 0:
        adapters.queue_tail[adapter] = request
    adapters.queue_head[adapter] = request
    _heap_add(pool, state, adapter)


@compiled
def pop_head(pool, state, adapter):  # type: ignore[no-untyped-def]
    """Takes an adapter's oldest request from the queue, and the adapter from its heap.

    The caller counts the request as running and calls `file` again.
    """
    adapters = state.adapters
    request = adapters.queue_head[adapter]
    _heap_remove(pool, state, adapter)
    follower = pool.next_waiting[request]
    adapters.queue_head[adapter] = follower
    if follower < 0:
        adapters.queue_tail[adapter] = -1
    state.whole[WAITING] -= 1
    return request


@compiled
def file(pool, state, adapter):  # type: ignore[no-untyped-def]
    """Puts an adapter that is in no heap into the right one, if it has waiting requests."""
    if state.adapters.queue_head[adapter] >= 0:
        _heap_add(pool, state, adapter)


@compiled
def first_admissible(pool, state, slot_free):  # type: ignore[no-untyped-def]
    """The adapter of the oldest waiting request that finds its adapter or a free slot, or -1."""
    adapters = state.adapters
    best = -1
    if state.whole[HEAP_ACTIVE] > 0:
        best = adapters.heap_active[0]
    if slot_free and state.whole[HEAP_IDLE] > 0:
        other = adapters.heap_idle[0]
        if best < 0 or _head_sequence(pool, adapters, other) < _head_sequence(pool, adapters, best):
            best = other
    return best


@compiled
def run_append(pool, state, request):  # type: ignore[no-untyped-def]
    """A request joins the end of the running list."""
    tail = state.whole[RUN_TAIL]
    pool.run_previous[request] = tail
    pool.run_next[request] = -1
    if tail < 0:
        state.whole[RUN_HEAD] = request
    else:
        pool.run_next[tail] = request
    state.whole[RUN_TAIL] = request
    state.whole[RUNNING] += 1


@compiled
def run_remove(pool, state, request):  # type: ignore[no-untyped-def]
    """A request leaves the running list."""
    before, after = pool.run_previous[request], pool.run_next[request]
    if before < 0:
        state.whole[RUN_HEAD] = after
    else:
        pool.run_next[before] = after
    if after < 0:
        state.whole[RUN_TAIL] = before
    else:
        pool.run_previous[after] = before
    state.whole[RUNNING] -= 1


@compiled
def finish_valid(pool, place):  # type: ignore[no-untyped-def]
    """Whether an entry of the finish heap still stands (its request was not preempted)."""
    request = pool.heap_request[place]
    return pool.status[request] == DECODES and pool.finish_step[request] == pool.heap_step[place]


@compiled
def _finish_compact(pool, state):  # type: ignore[no-untyped-def]
    """Drops the entries of preempted requests; sorting what is left keeps it a heap."""
    kept = 0
    for place in range(state.whole[FINISH_HEAP]):
        if finish_valid(pool, place):
            pool.heap_step[kept] = pool.heap_step[place]
            pool.heap_request[kept] = pool.heap_request[place]
            kept += 1
    order = np.argsort(pool.heap_step[:kept], kind="mergesort")
    pool.heap_step[:kept] = pool.heap_step[:kept][order]
    pool.heap_request[:kept] = pool.heap_request[:kept][order]
    state.whole[FINISH_HEAP] = kept


@compiled
def finish_push(pool, state, request, step):  # type: ignore[no-untyped-def]
    """Notes the step after which a decoding request is done."""
    steps, requests = pool.heap_step, pool.heap_request
    if state.whole[FINISH_HEAP] == len(steps):
        _finish_compact(pool, state)
    place = state.whole[FINISH_HEAP]
    state.whole[FINISH_HEAP] = place + 1
    while place > 0:
        parent = (place - 1) >> 1
        if steps[parent] <= step:
            break
        steps[place] = steps[parent]
        requests[place] = requests[parent]
        place = parent
    steps[place] = step
    requests[place] = request


@compiled
def finish_pop(pool, state):  # type: ignore[no-untyped-def]
    """Drops the first entry of the finish heap."""
    steps, requests = pool.heap_step, pool.heap_request
    size = state.whole[FINISH_HEAP] - 1
    state.whole[FINISH_HEAP] = size
    step, request = steps[size], requests[size]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and steps[child + 1] < steps[child]:
            child += 1
        if steps[child] >= step:
            break
        steps[place] = steps[child]
        requests[place] = requests[child]
        place = child
    steps[place] = step
    requests[place] = request
