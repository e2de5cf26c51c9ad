"""Attention of few query tokens to a longer frozen input, on CPUs.

PyTorch's fused CPU kernel is slow in the backward pass of such shapes when it is given a mask (a
third of a tuning step), and grouped heads are copied out for it. Plain matrix products over the
key-value heads, the queries of a group side by side, are several times faster; long queries still
go to the fused kernel.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "maitre_short_queries"
_SHORT_TOKENS = 64
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "sliding_window")
"""Arguments of attentions that change the scores in ways that this one does not know."""


def register() -> str:
    """Make the attention known to transformers; return its name for `attn_implementation`."""
    AttentionInterface.register(NAME, short_query_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def short_query_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention output `[rows, query tokens, heads, head size]`, as transformers does.

    `query` is `[rows, heads, query tokens, head size]`, `key` and `value` `[rows, kv heads, tokens,
    head size]`, the mask bool `[rows, 1, query tokens, tokens]` (true: seen). Without a mask, or
    with many query tokens, this is `sdpa_attention_forward`.
    """
    unknown = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    rows, heads, tokens, size = query.shape
    kv_heads = key.shape[1]
    if attention_mask is None or tokens > _SHORT_TOKENS:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    scale = size**-0.5 if scaling is None else scaling
    grouped = (query * scale).reshape(rows, kv_heads, -1, size)
    scores = torch.matmul(grouped, key.transpose(2, 3))
    hidden = ~attention_mask[:, :, : key.shape[2]].repeat(1, 1, heads // kv_heads, 1)
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=-1)
    output = torch.matmul(weights, value).view(rows, heads, tokens, size)
    return output.transpose(1, 2).contiguous(), None
