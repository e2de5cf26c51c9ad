"""Answer inputs with a tuned soft prompt: greedy generation, as evaluation presumes it."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position
from maitre.tuning.messages import Message
from maitre.tuning.prompt_tokens import PromptTokens
from maitre.tuning.soft_prompt import checked_prompt

BATCH_ROWS = 32


def answer(
    model: BaseModel,
    prompt: np.ndarray,
    inputs: Sequence[str | Sequence[Message]],
    *,
    position: Position = "suffix",
    max_new_tokens: int = 16,
    fold_system: bool = False,
) -> list[str]:
    """Return the completion of each text or chat under `prompt` (`[virtual_tokens, hidden]`).

    The tokens are those that tuning and evaluation see. Generation stops at the end-of-sequence
    token or after `max_new_tokens`.

    Raises:
        TuningInputError: a prompt of another width, or an input that gives no tokens.
    """
    prompt = checked_prompt(model, prompt, prompt.shape[0], "prompt")
    tokens = PromptTokens(model.tokenizer, fold_system)
    encoded = [tokens.input_ids(asked) for asked in inputs]
    answers: list[str] = []
    for start in range(0, len(encoded), BATCH_ROWS):
        batch = encoded[start : start + BATCH_ROWS]
        generated = _generate(model, prompt, batch, position, max_new_tokens)
        answers += [tokens.text_of(ids) for ids in generated]
    return answers


@torch.inference_mode()
def _generate(
    model: BaseModel,
    prompt: np.ndarray,
    inputs: Sequence[Sequence[int]],
    position: Position,
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the tokens that greedy decoding gives for each input."""
    soft = torch.from_numpy(prompt).to(model.device, model.dtype)
    embed = model.model.get_input_embeddings()
    rows = []
    for ids in inputs:
        # The layer itself, not its matrix: some models scale in it.
        parts = [embed(torch.tensor(ids, device=model.device)), soft]
        rows.append(torch.cat(parts if position == "suffix" else parts[::-1]))
    longest = max(len(row) for row in rows)
    embedded = torch.stack(
        [torch.cat([soft.new_zeros((longest - len(row), soft.shape[1])), row]) for row in rows]
    )
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    generated = model.model.generate(
        inputs_embeds=embedded,
        attention_mask=mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
            eos_token_id=model.tokenizer.eos_token_id,
        ),
    )
    listed: list[list[int]] = generated.tolist()
    return listed
