"""Answers inputs with a tuned soft prompt: greedy generation, as evaluation presumes it."""

from collections.abc import Sequence

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position
from maitre.tuning.soft_prompt import checked_prompt

BATCH_ROWS = 32


def answer(
    model: BaseModel,
    prompt: np.ndarray,
    inputs: Sequence[str],
    *,
    position: Position = "suffix",
    max_new_tokens: int = 16,
) -> list[str]:
    """The completion of each input under `prompt` (float `[virtual_tokens, hidden]`).

    Generation stops at the end-of-sequence token or after `max_new_tokens`. Raises
    `TuningInputError` for a prompt of another width.
    """
    prompt = checked_prompt(model, prompt, prompt.shape[0], "prompt")
    answers: list[str] = []
    for start in range(0, len(inputs), BATCH_ROWS):
        answers += _answer_batch(
            model, prompt, inputs[start : start + BATCH_ROWS], position, max_new_tokens
        )
    return answers


@torch.inference_mode()
def _answer_batch(
    model: BaseModel,
    prompt: np.ndarray,
    inputs: Sequence[str],
    position: Position,
    max_new_tokens: int,
) -> list[str]:
    soft = torch.from_numpy(prompt).to(model.device, model.dtype)
    rows = []
    for text in inputs:
        ids = torch.tensor(model.tokenizer(text).input_ids, device=model.device)
        parts = [model.embeddings[ids], soft]
        rows.append(torch.cat(parts if position == "suffix" else parts[::-1]))
    longest = max(len(row) for row in rows)
    embedded = torch.stack(
        [torch.cat([soft.new_zeros((longest - len(row), soft.shape[1])), row]) for row in rows]
    )
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    generated = model.model.generate(
        inputs_embeds=embedded,
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
    )
    return [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in generated]
