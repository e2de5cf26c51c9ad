"""The loop: schedule a step, let it pass (alone, or as the first of a leap), settle its end.

While nothing joins, leaves or is preempted, steps differ only in the KV tokens read, so they are
taken in one leap; the cost of a simulation grows with its events, not with its tokens.
"""

from maitre.twin.kernel.arrive import take_arrival
from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.queues import finish_pop, finish_push, finish_valid, first_admissible
from maitre.twin.kernel.schedule import leave_batch, new_block_slot, schedule
from maitre.twin.kernel.state import (
    ACTIVE,
    DECODED_TOKENS,
    DECODES,
    DECODING,
    EVENTS,
    FINISH_HEAP,
    FINISHED,
    FREE_BLOCKS,
    IN_FLIGHT,
    KV_TOKENS,
    MAX_RUNNING,
    MIN_FREE_BLOCKS,
    NEEDS_ARRIVALS,
    NEEDS_POOL,
    NEXT_ARRIVAL,
    NOW,
    PARTIAL,
    POOL_FREE,
    PREFILL_TOKENS,
    PREFILLING,
    RUN_TAIL,
    RUNNING,
    STEP,
    STEPS,
    UNUSED,
    WAITING,
)
from maitre.twin.kernel.statistics import (
    bin_of,
    blocks_in_use,
    record_completion,
    record_gaps,
    record_span,
)
from maitre.twin.kernel.step_time import step_s, steps_within


@compiled
def _finish(pool, state, limits, request):  # type: ignore[no-untyped-def]
    record_completion(pool, state, limits, request, state.real[NOW])
    leave_batch(pool, state, limits, request)
    pool.status[request] = UNUSED
    pool.next_waiting[request] = state.whole[POOL_FREE]
    state.whole[POOL_FREE] = request
    state.whole[IN_FLIGHT] -= 1


@compiled
def _end_prefills(pool, state, limits):  # type: ignore[no-untyped-def]
    """Requests whose prompt is now computed get a token and start to decode (or are done)."""
    whole = state.whole
    request = whole[RUN_TAIL]
    while request >= 0 and pool.status[request] == PREFILLING:
        before = pool.run_previous[request]
        if request != whole[PARTIAL]:
            if pool.done_tokens[request] == 0:
                pool.first_token_s[request] = state.real[NOW]
            else:
                state.itl_bins[bin_of(state.real[NOW] - pool.last_token_s[request])] += 1
            left = pool.output_tokens[request] - pool.done_tokens[request] - 1
            if left == 0:
                _finish(pool, state, limits, request)
            else:
                pool.finish_step[request] = whole[STEP] + left
                pool.status[request] = DECODES
                whole[DECODING] += 1
                state.new_block_at[new_block_slot(pool, limits, request)] += 1
                finish_push(pool, state, request, pool.finish_step[request])
        request = before


@compiled
def _steps_to_finish(pool, state):  # type: ignore[no-untyped-def]
    whole = state.whole
    while whole[FINISH_HEAP] > 0 and not finish_valid(pool, 0):
        finish_pop(pool, state)
    if whole[FINISH_HEAP] == 0:
        return 1
    return pool.heap_step[0] - whole[STEP]


@compiled
def _steps_to_shortage(state, limits):  # type: ignore[no-untyped-def]
    """How many steps, this one (whose blocks are taken) included, the free blocks last."""
    whole = state.whole
    free = whole[FREE_BLOCKS]
    cycles = free // whole[DECODING]
    free -= cycles * whole[DECODING]
    steps = 1 + cycles * limits.block_tokens
    for ahead in range(1, limits.block_tokens + 1):
        free -= state.new_block_at[(whole[STEP] + ahead) % limits.block_tokens]
        if free < 0:
            break
        steps += 1
    return steps


@compiled
def _blocks_over(state, limits, steps):  # type: ignore[no-untyped-def]
    """New blocks in the `steps` steps that follow this one."""
    whole = state.whole
    cycles = steps // limits.block_tokens
    blocks = cycles * whole[DECODING]
    for ahead in range(1, steps - cycles * limits.block_tokens + 1):
        blocks += state.new_block_at[(whole[STEP] + ahead) % limits.block_tokens]
    return blocks


@compiled
def _leap(pool, state, limits, arrivals, first_s, growth_s):  # type: ignore[no-untyped-def]
    """How many steps the batch stays as it is; takes the arrivals that cannot change that."""
    whole, now = state.whole, state.real[NOW]
    most = min(_steps_to_finish(pool, state), _steps_to_shortage(state, limits))
    most = steps_within(first_s, growth_s, limits.duration_s - now, most)
    open_to = whole[RUNNING] < limits.max_num_seqs and (
        first_admissible(pool, state, whole[ACTIVE] < limits.max_loras) < 0
    )
    while most > 1:
        if whole[NEXT_ARRIVAL] == len(arrivals.arrival_s):
            if not arrivals.last and whole[NEXT_ARRIVAL] > 0:
                known_s = arrivals.arrival_s[whole[NEXT_ARRIVAL] - 1] + limits.ingress_s
                most = steps_within(first_s, growth_s, known_s - now, most)
            break
        at_s = arrivals.arrival_s[whole[NEXT_ARRIVAL]] + limits.ingress_s
        if at_s > now + most * first_s + growth_s * (0.5 * most * (most - 1)):
            break
        adapter = arrivals.adapter[whole[NEXT_ARRIVAL]]
        joins = open_to and (
            state.adapters.running[adapter] > 0 or whole[ACTIVE] < limits.max_loras
        )
        if joins or not take_arrival(pool, state, limits, arrivals):
            most = steps_within(first_s, growth_s, at_s - now, most)
            break
    return most


@compiled
def _pass_steps(pool, state, limits, steps, first_s, growth_s):  # type: ignore[no-untyped-def]
    """Lets the scheduled step and the `steps` - 1 alike after it pass, and settles their end."""
    whole, real = state.whole, state.real
    span_s = steps * first_s + growth_s * (0.5 * steps * (steps - 1))
    used = blocks_in_use(state, limits)
    if steps > 1:
        whole[FREE_BLOCKS] -= _blocks_over(state, limits, steps - 1)
    record_span(state, limits, span_s, used, blocks_in_use(state, limits) - used, True)
    if whole[DECODING] > 0:
        record_gaps(state, first_s, growth_s, steps, whole[DECODING])
    whole[MIN_FREE_BLOCKS] = min(whole[MIN_FREE_BLOCKS], whole[FREE_BLOCKS])
    whole[STEP] += steps
    whole[STEPS] += steps
    whole[EVENTS] += 1
    whole[KV_TOKENS] += steps * whole[DECODING]
    whole[DECODED_TOKENS] += steps * whole[DECODING]
    real[NOW] += span_s
    while whole[FINISH_HEAP] > 0 and pool.heap_step[0] <= whole[STEP]:
        request = pool.heap_request[0]
        valid = finish_valid(pool, 0)
        finish_pop(pool, state)
        if valid:
            _finish(pool, state, limits, request)
    _end_prefills(pool, state, limits)


@compiled
def advance(cost, limits, arrivals, pool, state):  # type: ignore[no-untyped-def]
    """Runs on until the end, or until arrivals or pool rows are lacking; says which."""
    whole, real = state.whole, state.real
    while True:
        while (
            whole[NEXT_ARRIVAL] < len(arrivals.arrival_s)
            and arrivals.arrival_s[whole[NEXT_ARRIVAL]] + limits.ingress_s <= real[NOW]
        ):
            if not take_arrival(pool, state, limits, arrivals):
                return NEEDS_POOL
        if whole[NEXT_ARRIVAL] == len(arrivals.arrival_s) and not arrivals.last:
            return NEEDS_ARRIVALS
        if real[NOW] >= limits.duration_s:
            return FINISHED
        if whole[RUNNING] == 0 and whole[WAITING] == 0:
            at_s = limits.duration_s
            if whole[NEXT_ARRIVAL] < len(arrivals.arrival_s):
                at_s = arrivals.arrival_s[whole[NEXT_ARRIVAL]] + limits.ingress_s
            at_s = min(max(at_s, real[NOW]), limits.duration_s)
            record_span(state, limits, at_s - real[NOW], 0, 0, False)
            real[NOW] = at_s
            continue
        prefill, load_s, preempted = schedule(pool, state, limits)
        whole[PREFILL_TOKENS] += prefill
        first_s = load_s + step_s(cost, whole[RUNNING], prefill, whole[KV_TOKENS], whole[ACTIVE])
        steps = 1
        growth_s = 0.0
        if limits.leap and prefill == 0 and not preempted and whole[DECODING] > 0:
            growth_s = cost.per_kv_token_ms * 1e-3 * whole[DECODING]
            if whole[PARTIAL] < 0:
                steps = _leap(pool, state, limits, arrivals, first_s, growth_s)
        _pass_steps(pool, state, limits, steps, first_s, growth_s)
        whole[MAX_RUNNING] = max(whole[MAX_RUNNING], whole[RUNNING])
