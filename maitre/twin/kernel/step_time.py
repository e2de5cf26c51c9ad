"""What one engine step costs.

With B sequences in the batch, of which P tokens are prefill, K tokens held in the KV cache and L
distinct adapters,

    t = max(floor, base + per_sequence B) + per_kv_token K
        + [L > 0] (lora + per_adapter L + lora_per_sequence B)
        + [P > 0] (prefill + per_prefill_token P)          (ms)

t is linear in K, so n decode steps of an unchanged batch, over which K grows by B a step, take
n t(K) + per_kv_token B n (n - 1) / 2.
"""

from maitre.twin.kernel.compiled import compiled


@compiled
def step_s(cost, sequences, prefill_tokens, kv_tokens, adapters):  # type: ignore[no-untyped-def]
    """Seconds of one step."""
    t = max(cost.floor_ms, cost.base_ms + cost.per_sequence_ms * sequences)
    t += cost.per_kv_token_ms * kv_tokens
    if adapters > 0:
        t += cost.lora_ms + cost.per_adapter_ms * adapters
        t += cost.lora_per_sequence_ms * sequences
    if prefill_tokens > 0:
        t += cost.prefill_ms + cost.per_prefill_token_ms * prefill_tokens
    return t * 1e-3


@compiled
def steps_within(first_s, growth_s, span_s, most):  # type: ignore[no-untyped-def]
    """The least n in 1..most such that n steps (first, first + growth, ...) last `span_s`."""
    if first_s >= span_s:
        return 1
    n = int(span_s / first_s) + 1
    if growth_s > 0.0:
        half = 0.5 * growth_s
        b = first_s - half
        n = int((-b + (b * b + 4.0 * half * span_s) ** 0.5) / (2.0 * half))
    n = min(max(n, 1), most)
    while n > 1 and (n - 1) * first_s + growth_s * (0.5 * (n - 1) * (n - 2)) >= span_s:
        n -= 1
    while n < most and n * first_s + growth_s * (0.5 * n * (n - 1)) < span_s:
        n += 1
    return n
