"""What one engine step runs: vLLM V1's `Scheduler.schedule`.

Running requests first, one token each; when the KV cache has no block left for one, the youngest
running requests are preempted (they lose their KV, keep their generated tokens and wait at the
front). If none was preempted, waiting requests are admitted while token budget, sequences, slots
and blocks last; a request whose adapter finds no slot is passed over, one that finds no blocks
ends admission. A prompt larger than the budget left is prefilled in chunks.

vLLM walks over the waiting requests that it passes over at every step, in Python: with thousands
of them that takes milliseconds. How many it walked over is noted when the batch has changed, and
taken to stay until it changes again, so that a leap costs what its steps would.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.lora_cache import activate, deactivate
from maitre.twin.kernel.queues import (
    file,
    first_admissible,
    passed_over,
    pop_head,
    push_front,
    refile,
)
from maitre.twin.kernel.running import run_append, run_remove
from maitre.twin.kernel.state import DECODES, PREFILLING, UNUSED


@compiled
def blocks_of(tokens, block_tokens):
    """Return the blocks that hold so many tokens."""
    return (tokens + block_tokens - 1) // block_tokens


@compiled
def new_block_slot(sim, limits, request):
    """Return the residue of the step number at which a decoding request needs a new block."""
    r = sim.requests[request]
    return (r.finish_step - r.input_tokens - r.output_tokens + 1) % limits.block_tokens


@compiled
def held_tokens(sim, request):
    """Return tokens that a running request has in the KV cache."""
    r = sim.requests[request]
    if r.status == DECODES:
        left = r.finish_step - sim.server[0].step
        return r.input_tokens + r.output_tokens - left - 1
    return r.computed


@compiled
def leave_batch(sim, limits, request):
    """Take a running request out of the batch; free its blocks and, if it is the last, its slot."""
    r = sim.requests[request]
    server = sim.server[0]
    held = held_tokens(sim, request)
    server.kv_tokens -= held
    server.free_blocks += blocks_of(held, limits.block_tokens)
    if r.status == DECODES:
        server.decoding -= 1
        sim.new_block_at[new_block_slot(sim, limits, request)] -= 1
    run_remove(sim, request)
    r.status = UNUSED
    adapter = r.adapter
    server.scan_due = 1
    sim.adapters[adapter].running -= 1
    if sim.adapters[adapter].running == 0:
        server.active -= 1
        server.waiting_active -= sim.adapters[adapter].waiting
        server.sets_hash ^= sim.adapters[adapter].running_key
        deactivate(sim, adapter)
        refile(sim, adapter)


@compiled
def _preempt(sim, limits, request):
    r = sim.requests[request]
    server = sim.server[0]
    if r.status == DECODES:
        left = r.finish_step - server.step
        r.done_tokens = r.output_tokens - left
        r.last_token_s = server.now_s
    leave_batch(sim, limits, request)
    if server.partial == request:
        server.partial = -1
    r.computed = 0
    push_front(sim, request)
    server.waiting_area -= server.now_s
    server.preemptions += 1


@compiled
def _make_room(sim, limits):
    """Serve the running requests in order; preempt the youngest where one finds no block."""
    server = sim.server[0]
    slot = server.step % limits.block_tokens
    taken = 0
    request = server.run_head
    while request >= 0:
        if sim.requests[request].status == DECODES and new_block_slot(sim, limits, request) == slot:
            while server.free_blocks == taken:
                youngest = server.run_tail
                _preempt(sim, limits, youngest)
                if youngest == request:
                    return
            taken += 1
        request = sim.requests[request].run_next


@compiled
def _admit(sim, limits, adapter, chunk, blocks):
    """Move an adapter's oldest waiting request into the batch; return the loading seconds."""
    server = sim.server[0]
    request = pop_head(sim, adapter)
    load_s = 0.0
    if sim.adapters[adapter].running == 0:
        server.active += 1
        server.waiting_active += sim.adapters[adapter].waiting
        server.sets_hash ^= sim.adapters[adapter].running_key
        load_s = activate(sim, limits, adapter)
    sim.adapters[adapter].running += 1
    file(sim, adapter)
    sim.requests[request].status = PREFILLING
    sim.requests[request].computed = chunk
    server.free_blocks -= blocks
    server.kv_tokens += chunk
    run_append(sim, request)
    server.waiting_area += server.now_s
    if chunk < sim.requests[request].input_tokens + sim.requests[request].done_tokens:
        server.partial = request
    return load_s


@compiled
def schedule(sim, limits):
    """Choose the next step: (prefill tokens, loading seconds, whether any was preempted).

    On return the blocks for this step are taken. Requests in prefill are those at the end of the
    running list with status PREFILLING.
    """
    server = sim.server[0]
    budget = limits.max_num_batched_tokens
    slot = server.step % limits.block_tokens
    before = server.preemptions
    if sim.new_block_at[slot] > server.free_blocks:
        _make_room(sim, limits)
    server.free_blocks -= sim.new_block_at[slot]
    budget -= server.decoding
    prefill = 0
    request = server.partial
    if request >= 0 and budget > 0:
        total = sim.requests[request].input_tokens + sim.requests[request].done_tokens
        chunk = min(total - sim.requests[request].computed, budget)
        blocks = blocks_of(sim.requests[request].computed + chunk, limits.block_tokens) - blocks_of(
            sim.requests[request].computed, limits.block_tokens
        )
        if blocks > server.free_blocks:
            _preempt(sim, limits, request)
        else:
            server.free_blocks -= blocks
            server.kv_tokens += chunk
            sim.requests[request].computed += chunk
            budget -= chunk
            prefill += chunk
            if sim.requests[request].computed == total:
                server.partial = -1
    load_s = 0.0
    scanned = 0.0
    if server.preemptions == before and server.partial < 0:
        while budget > 0 and server.running < limits.max_num_seqs:
            adapter = first_admissible(sim, server.active < limits.max_loras)
            if adapter < 0:
                scanned = float(server.waiting)
                break
            request = sim.adapters[adapter].queue_head
            scanned = passed_over(sim, sim.requests[request].sequence)
            chunk = min(
                sim.requests[request].input_tokens + sim.requests[request].done_tokens, budget
            )
            blocks = blocks_of(chunk, limits.block_tokens)
            if blocks > server.free_blocks:
                break
            load_s += _admit(sim, limits, adapter, chunk, blocks)
            budget -= chunk
            prefill += chunk
    changed = prefill > 0 or server.preemptions > before
    if changed or server.scan_due:
        server.scanned = scanned
        server.scan_due = 1 if changed else 0
    server.max_running = max(server.max_running, server.running)
    server.max_active = max(server.max_active, server.active)
    server.min_free_blocks = min(server.min_free_blocks, server.free_blocks)
    return prefill, load_s, server.preemptions > before
