"""The loop: schedule a step, let it pass (alone, or as the first of a leap), settle its end.

While nothing joins, leaves or is preempted, steps differ only in the KV tokens read, so they are
taken in one leap; the cost of a simulation grows with its events, not with its tokens.
"""

from maitre.twin.kernel.chunks import deliver_steps
from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.front import delivered_s, note_series, receive, send
from maitre.twin.kernel.queues import first_admissible
from maitre.twin.kernel.running import finish_pop, finish_push, finish_stands
from maitre.twin.kernel.schedule import leave_batch, new_block_slot, schedule
from maitre.twin.kernel.state import (
    DECODES,
    FINISHED,
    NEEDS_ARRIVALS,
    NEEDS_REQUESTS,
    PREFILLING,
)
from maitre.twin.kernel.statistics import (
    bin_of,
    blocks_in_use,
    record_completion,
    record_span,
)
from maitre.twin.kernel.step_time import step_s, steps_within


@compiled
def _finish(sim, limits, request):
    server = sim.server[0]
    record_completion(sim, limits, request, server.now_s)
    leave_batch(sim, limits, request)
    sim.requests[request].next_waiting = server.free_request
    server.free_request = request
    server.in_flight -= 1


@compiled
def _end_prefills(sim, limits):
    """Give requests whose prompt is now computed a token, and start to decode (or end) them."""
    server = sim.server[0]
    request = server.run_tail
    while request >= 0 and sim.requests[request].status == PREFILLING:
        before = sim.requests[request].run_previous
        if request != server.partial:
            if sim.requests[request].done_tokens == 0:
                sim.requests[request].first_token_s = delivered_s(sim, limits, server.now_s)
            else:
                sim.itl_bins[bin_of(server.now_s - sim.requests[request].last_token_s)] += 1
            left = sim.requests[request].output_tokens - sim.requests[request].done_tokens - 1
            if left == 0:
                _finish(sim, limits, request)
            else:
                sim.requests[request].finish_step = server.step + left
                sim.requests[request].status = DECODES
                server.decoding += 1
                sim.new_block_at[new_block_slot(sim, limits, request)] += 1
                finish_push(sim, request, sim.requests[request].finish_step)
        request = before


@compiled
def _steps_to_finish(sim):
    server = sim.server[0]
    while server.finishes > 0 and not finish_stands(sim, 0):
        finish_pop(sim)
    if server.finishes == 0:
        return 1
    return sim.finishes[0].step - server.step


@compiled
def _steps_to_shortage(sim, limits):
    """Return how many steps the free blocks last, this one included."""
    server = sim.server[0]
    free = server.free_blocks
    cycles = free // server.decoding
    free -= cycles * server.decoding
    steps = 1 + cycles * limits.block_tokens
    for ahead in range(1, limits.block_tokens + 1):
        free -= sim.new_block_at[(server.step + ahead) % limits.block_tokens]
        if free < 0:
            break
        steps += 1
    return steps


@compiled
def _blocks_over(sim, limits, steps):
    """Return the new blocks in the `steps` steps that follow this one."""
    server = sim.server[0]
    cycles = steps // limits.block_tokens
    blocks = cycles * server.decoding
    for ahead in range(1, steps - cycles * limits.block_tokens + 1):
        blocks += sim.new_block_at[(server.step + ahead) % limits.block_tokens]
    return blocks


@compiled
def _new_block_seconds(sim, limits, steps, first_s, growth_s, span_s):
    """Return how long the blocks that a leap of `steps` steps adds are held, in all."""
    server = sim.server[0]
    every = limits.block_tokens
    held_s = 0.0
    for ahead in range(1, min(steps - 1, every) + 1):
        blocks = sim.new_block_at[(server.step + ahead) % every]
        if blocks == 0:
            continue
        # Taken at the starts of the steps j = ahead, ahead + every, ...; step j starts at
        # j first_s + growth_s j (j - 1) / 2.
        count = (steps - 1 - ahead) // every + 1
        pairs = 0.5 * count * (count - 1)
        sum_j = count * ahead + every * pairs
        squares = (count - 1) * count * (2 * count - 1) / 6.0
        sum_j2 = count * ahead * ahead + 2.0 * ahead * every * pairs + every * every * squares
        starts_s = first_s * sum_j + 0.5 * growth_s * (sum_j2 - sum_j)
        held_s += blocks * (count * span_s - starts_s)
    return held_s


@compiled
def _joins(sim, limits, adapter, open_to):
    """Return whether a request that reaches the engine during a leap would change what it runs."""
    if open_to and (sim.adapters[adapter].running > 0 or sim.server[0].active < limits.max_loras):
        return True
    # Otherwise it only waits; the sets of adapters change if it is the first of its adapter to.
    return limits.scrape_interval_s > 0.0 and sim.adapters[adapter].queue_head < 0


@compiled
def _leap(sim, limits, arrivals, first_s, growth_s):
    """Return how many steps the batch stays the same; take the arrivals that cannot change it."""
    server = sim.server[0]
    most = min(_steps_to_finish(sim), _steps_to_shortage(sim, limits))
    most = steps_within(first_s, growth_s, limits.duration_s - server.now_s, most)
    open_to = server.running < limits.max_num_seqs and (
        first_admissible(sim, server.active < limits.max_loras) < 0
    )
    while most > 1:
        end_s = server.now_s + most * first_s + growth_s * (0.5 * most * (most - 1))
        if server.front_head < 0:
            if server.next_arrival == len(arrivals.arrival_s):
                if not arrivals.last and server.next_arrival > 0:
                    known_s = arrivals.arrival_s[server.next_arrival - 1]
                    most = steps_within(first_s, growth_s, known_s - server.now_s, most)
                return most
            at_s = arrivals.arrival_s[server.next_arrival]
            if at_s > end_s:
                return most
            if not send(sim, limits, arrivals):
                return steps_within(first_s, growth_s, at_s - server.now_s, most)
            continue
        at_s = sim.requests[server.front_head].visible_s
        if at_s > end_s:
            return most
        if _joins(sim, limits, sim.requests[server.front_head].adapter, open_to):
            return steps_within(first_s, growth_s, at_s - server.now_s, most)
        receive(sim)
    return most


@compiled
def _send_until(sim, limits, arrivals, at_s):
    """Send the client's due requests; return False if there is no free row for one."""
    server = sim.server[0]
    while (
        server.next_arrival < len(arrivals.arrival_s)
        and arrivals.arrival_s[server.next_arrival] <= at_s
    ):
        if not send(sim, limits, arrivals):
            return False
    return True


@compiled
def _pass_steps(sim, limits, arrivals, steps, first_s, growth_s):
    """Pass the scheduled step and the `steps` - 1 equal ones after it, and settle their end."""
    server = sim.server[0]
    span_s = steps * first_s + growth_s * (0.5 * steps * (steps - 1))
    used = blocks_in_use(sim, limits)
    if steps > 1:
        server.free_blocks -= _blocks_over(sim, limits, steps - 1)
    grown = blocks_in_use(sim, limits) - used
    record_span(sim, limits, span_s, used, grown, True)
    if steps > 1 and server.now_s + span_s <= limits.duration_s:
        # Not evenly, as the timeline has it, but each block from the step that takes it.
        exact_s = _new_block_seconds(sim, limits, steps, first_s, growth_s, span_s)
        server.kv_area += exact_s - 0.5 * grown * span_s
    # Requests sent during the span find it in flight, and occupy the front before its tokens.
    _send_until(sim, limits, arrivals, server.now_s + span_s)
    if server.decoding > 0:
        deliver_steps(sim, limits, first_s, growth_s, steps)
    server.min_free_blocks = min(server.min_free_blocks, server.free_blocks)
    server.step += steps
    server.steps += steps
    server.events += 1
    server.kv_tokens += steps * server.decoding
    server.decoded_tokens += steps * server.decoding
    server.now_s += span_s
    while server.finishes > 0 and sim.finishes[0].step <= server.step:
        request = sim.finishes[0].request
        stands = finish_stands(sim, 0)
        finish_pop(sim)
        if stands:
            _finish(sim, limits, request)
    _end_prefills(sim, limits)


@compiled
def _trace(sim, limits, first_s, load_s, loads, steps, prefill):
    """Record the event that follows, every `trace_every` events, for calibration and tests."""
    server = sim.server[0]
    row = server.events // limits.trace_every
    if server.events % limits.trace_every == 0 and row < len(sim.trace):
        sim.trace[row].now_s = server.now_s
        sim.trace[row].first_s = first_s
        sim.trace[row].load_s = load_s
        sim.trace[row].loads = loads
        sim.trace[row].steps = steps
        sim.trace[row].running = server.running
        sim.trace[row].decoding = server.decoding
        sim.trace[row].waiting = server.waiting
        sim.trace[row].scanned = server.scanned
        sim.trace[row].active = server.active
        sim.trace[row].kv_tokens = server.kv_tokens
        sim.trace[row].free_blocks = server.free_blocks
        sim.trace[row].prefill = prefill


@compiled
def advance(cost, limits, arrivals, sim):
    """Run until the end, or until arrivals or rows for requests are missing; return which."""
    server = sim.server[0]
    while True:
        if not _send_until(sim, limits, arrivals, server.now_s):
            return NEEDS_REQUESTS
        if server.next_arrival == len(arrivals.arrival_s) and not arrivals.last:
            return NEEDS_ARRIVALS
        while server.front_head >= 0 and sim.requests[server.front_head].visible_s <= server.now_s:
            receive(sim)
        if server.now_s >= limits.duration_s:
            return FINISHED
        note_series(sim, limits)
        if server.running == 0 and server.waiting == 0:
            at_s = limits.duration_s
            if server.front_head >= 0:
                at_s = sim.requests[server.front_head].visible_s
            elif server.next_arrival < len(arrivals.arrival_s):
                at_s = arrivals.arrival_s[server.next_arrival]
            at_s = min(max(at_s, server.now_s), limits.duration_s)
            record_span(sim, limits, at_s - server.now_s, 0, 0, False)
            server.now_s = at_s
            continue
        loads = server.gpu_loads
        prefill, load_s, preempted = schedule(sim, limits)
        server.prefill_tokens += prefill
        first_s = load_s + step_s(
            cost,
            server.running,
            server.decoding,
            prefill,
            server.kv_tokens,
            server.active,
            server.scanned,
        )
        steps = 1
        growth_s = 0.0
        if limits.leap and prefill == 0 and not preempted and server.decoding > 0:
            growth_s = cost.per_kv_token_ms * 1e-3 * server.decoding
            if server.partial < 0:
                steps = _leap(sim, limits, arrivals, first_s, growth_s)
        _trace(sim, limits, first_s, load_s, server.gpu_loads - loads, steps, prefill)
        _pass_steps(sim, limits, arrivals, steps, first_s, growth_s)
        server.max_running = max(server.max_running, server.running)
