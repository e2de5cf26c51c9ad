"""What one engine step runs: vLLM V1's `Scheduler.schedule`.

Running requests first, one token each; when the KV cache has no block left for one, the youngest
running requests are preempted (they lose their KV, keep their generated tokens and wait at the
front). If none was preempted, waiting requests are admitted while token budget, sequences, slots
and blocks last; a request whose adapter finds no slot is passed over, one that finds no blocks
ends admission. A prompt larger than the budget left is prefilled in chunks.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.lora_cache import activate, deactivate
from maitre.twin.kernel.queues import (
    file,
    first_admissible,
    pop_head,
    push_front,
    refile,
    run_append,
    run_remove,
)
from maitre.twin.kernel.state import (
    ACTIVE,
    DECODES,
    DECODING,
    FREE_BLOCKS,
    KV_TOKENS,
    MAX_ACTIVE,
    MAX_RUNNING,
    MIN_FREE_BLOCKS,
    NOW,
    PARTIAL,
    PREEMPTIONS,
    PREFILLING,
    RUN_HEAD,
    RUN_TAIL,
    RUNNING,
    STEP,
    UNUSED,
    WAITING_AREA,
)


@compiled
def blocks_of(tokens, block_tokens):  # type: ignore[no-untyped-def]
    """Blocks that hold so many tokens."""
    return (tokens + block_tokens - 1) // block_tokens


@compiled
def new_block_slot(pool, limits, request):  # type: ignore[no-untyped-def]
    """The residue of the step number at which a decoding request needs a new block."""
    return (
        pool.finish_step[request] - pool.input_tokens[request] - pool.output_tokens[request] + 1
    ) % limits.block_tokens


@compiled
def held_tokens(pool, state, request):  # type: ignore[no-untyped-def]
    """Tokens that a running request has in the KV cache."""
    if pool.status[request] == DECODES:
        left = pool.finish_step[request] - state.whole[STEP]
        return pool.input_tokens[request] + pool.output_tokens[request] - left - 1
    return pool.computed[request]


@compiled
def leave_batch(pool, state, limits, request):  # type: ignore[no-untyped-def]
    """Takes a running request out of the batch and frees its blocks and, if last, its slot."""
    whole, adapters = state.whole, state.adapters
    held = held_tokens(pool, state, request)
    whole[KV_TOKENS] -= held
    whole[FREE_BLOCKS] += blocks_of(held, limits.block_tokens)
    if pool.status[request] == DECODES:
        whole[DECODING] -= 1
        state.new_block_at[new_block_slot(pool, limits, request)] -= 1
    run_remove(pool, state, request)
    pool.status[request] = UNUSED
    adapter = pool.adapter[request]
    adapters.running[adapter] -= 1
    if adapters.running[adapter] == 0:
        whole[ACTIVE] -= 1
        deactivate(state, adapter)
        refile(pool, state, adapter)


@compiled
def _preempt(pool, state, limits, request):  # type: ignore[no-untyped-def]
    whole = state.whole
    if pool.status[request] == DECODES:
        left = pool.finish_step[request] - whole[STEP]
        pool.done_tokens[request] = pool.output_tokens[request] - left
        pool.last_token_s[request] = state.real[NOW]
    leave_batch(pool, state, limits, request)
    if whole[PARTIAL] == request:
        whole[PARTIAL] = -1
    pool.computed[request] = 0
    push_front(pool, state, request)
    state.real[WAITING_AREA] -= state.real[NOW]
    whole[PREEMPTIONS] += 1


@compiled
def _make_room(pool, state, limits):  # type: ignore[no-untyped-def]
    """Serves the running requests in order; where one finds no block the youngest goes."""
    whole = state.whole
    slot = whole[STEP] % limits.block_tokens
    taken = 0
    request = whole[RUN_HEAD]
    while request >= 0:
        if pool.status[request] == DECODES and new_block_slot(pool, limits, request) == slot:
            while whole[FREE_BLOCKS] == taken:
                youngest = whole[RUN_TAIL]
                _preempt(pool, state, limits, youngest)
                if youngest == request:
                    return
            taken += 1
        request = pool.run_next[request]


@compiled
def _admit(pool, state, limits, adapter, chunk, blocks):  # type: ignore[no-untyped-def]
    """Moves an adapter's oldest waiting request into the batch; returns loading seconds."""
    whole, adapters = state.whole, state.adapters
    request = pop_head(pool, state, adapter)
    load_s = 0.0
    if adapters.running[adapter] == 0:
        whole[ACTIVE] += 1
        load_s = activate(state, limits, adapter)
    adapters.running[adapter] += 1
    file(pool, state, adapter)
    pool.status[request] = PREFILLING
    pool.computed[request] = chunk
    whole[FREE_BLOCKS] -= blocks
    whole[KV_TOKENS] += chunk
    run_append(pool, state, request)
    state.real[WAITING_AREA] += state.real[NOW]
    if chunk < pool.input_tokens[request] + pool.done_tokens[request]:
        whole[PARTIAL] = request
    return load_s


@compiled
def schedule(pool, state, limits):  # type: ignore[no-untyped-def]
    """Chooses the next step: (prefill tokens, loading seconds, whether any was preempted).

    On return the blocks for this step are taken. Requests in prefill are those at the end of the
    running list with status PREFILLING.
    """
    whole = state.whole
    budget = limits.max_num_batched_tokens
    slot = whole[STEP] % limits.block_tokens
    before = whole[PREEMPTIONS]
    if state.new_block_at[slot] > whole[FREE_BLOCKS]:
        _make_room(pool, state, limits)
    whole[FREE_BLOCKS] -= state.new_block_at[slot]
    budget -= whole[DECODING]
    prefill = 0
    request = whole[PARTIAL]
    if request >= 0 and budget > 0:
        total = pool.input_tokens[request] + pool.done_tokens[request]
        chunk = min(total - pool.computed[request], budget)
        blocks = blocks_of(pool.computed[request] + chunk, limits.block_tokens) - blocks_of(
            pool.computed[request], limits.block_tokens
        )
        if blocks > whole[FREE_BLOCKS]:
            _preempt(pool, state, limits, request)
        else:
            whole[FREE_BLOCKS] -= blocks
            whole[KV_TOKENS] += chunk
            pool.computed[request] += chunk
            budget -= chunk
            prefill += chunk
            if pool.computed[request] == total:
                whole[PARTIAL] = -1
    load_s = 0.0
    if whole[PREEMPTIONS] == before and whole[PARTIAL] < 0:
        while budget > 0 and whole[RUNNING] < limits.max_num_seqs:
            adapter = first_admissible(pool, state, whole[ACTIVE] < limits.max_loras)
            if adapter < 0:
                break
            request = state.adapters.queue_head[adapter]
            chunk = min(pool.input_tokens[request] + pool.done_tokens[request], budget)
            blocks = blocks_of(chunk, limits.block_tokens)
            if blocks > whole[FREE_BLOCKS]:
                break
            load_s += _admit(pool, state, limits, adapter, chunk, blocks)
            budget -= chunk
            prefill += chunk
    whole[MAX_RUNNING] = max(whole[MAX_RUNNING], whole[RUNNING])
    whole[MAX_ACTIVE] = max(whole[MAX_ACTIVE], whole[ACTIVE])
    whole[MIN_FREE_BLOCKS] = min(whole[MIN_FREE_BLOCKS], whole[FREE_BLOCKS])
    return prefill, load_s, whole[PREEMPTIONS] > before
