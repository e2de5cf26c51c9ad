"""What one engine step costs.

A batch of T tokens (one a decoding sequence, plus P of prefill) from R sequences of L distinct
adapters, with K tokens in the KV cache and W waiting requests passed over, takes

    t = base + per_token T + per_token_over_small (T - T_s)+
        + [T > T_g] (over_graph + per_token_over_graph (T - T_g))
        + per_sequence R + per_kv_token K + per_waiting W
        + [L > 0] (lora + per_adapter L + lora_per_token T + lora_per_prefill_token P
                   + [T > T_g] (lora_over_graph + lora_per_token_over_graph (T - T_g)))     (ms)

where x+ = max(x, 0), T_s is the size up to which a step costs the same, and T_g the largest size
for which vLLM captures CUDA graphs. The LoRA terms already hold what depends on the server's slots
and rank. t is linear in K, so n decode steps of an unchanged batch of R, over which K grows by R a
step, take n t(K) + per_kv_token R n (n - 1) / 2.
"""

from maitre.twin.kernel.compiled import compiled


@compiled
def step_s(cost, sequences, decoding, prefill_tokens, kv_tokens, adapters, scanned=0.0):
    """Return the seconds of one step."""
    tokens = decoding + prefill_tokens
    over_graph = max(tokens - cost.graph_tokens, 0.0)
    t = cost.base_ms + cost.per_token_ms * tokens
    t += cost.per_token_over_small_ms * max(tokens - cost.small_tokens, 0.0)
    if over_graph > 0.0:
        t += cost.over_graph_ms + cost.per_token_over_graph_ms * over_graph
    t += cost.per_sequence_ms * sequences + cost.per_kv_token_ms * kv_tokens
    t += cost.per_waiting_ms * scanned
    if adapters > 0:
        t += cost.lora_ms + cost.per_adapter_ms * adapters + cost.lora_per_token_ms * tokens
        t += cost.lora_per_prefill_token_ms * prefill_tokens
        if over_graph > 0.0:
            t += cost.lora_over_graph_ms + cost.lora_per_token_over_graph_ms * over_graph
    return t * 1e-3


@compiled
def steps_within(first_s, growth_s, span_s, most):
    """Return the least n in 1..most with which steps (first, first + growth, ...) last `span_s`."""
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
