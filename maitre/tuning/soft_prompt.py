"""Soft prompts to start from: random, or the words of a text."""

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuningInputError


def random_init(model: BaseModel, virtual_tokens: int, seed: int) -> np.ndarray:
    """Return a cold start: embeddings of random tokens, float32 `[virtual_tokens, hidden]`.

    Sampled vocabulary is the stronger of the two random starts of Lester et al. 2021 (section
    3.2: against uniform numbers).
    """
    generator = np.random.default_rng(seed)
    ids = generator.integers(model.embeddings.shape[0], size=virtual_tokens)
    return _embed(model, ids)


def text_init(model: BaseModel, text: str, virtual_tokens: int) -> np.ndarray:
    """Return the embeddings of a text's first `virtual_tokens` tokens, repeated if too few.

    Float32 `[virtual_tokens, hidden]`. Raises `TuningInputError` when the text has no token.
    """
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise TuningInputError("a text to start from must have at least one token")
    return _embed(model, np.resize(np.array(ids), virtual_tokens))


def checked_prompt(
    model: BaseModel, prompt: np.ndarray, virtual_tokens: int, what: str
) -> np.ndarray:
    """Return a prompt as float32; raise `TuningInputError` when its shape or a value is wrong."""
    expected = (virtual_tokens, model.hidden_size)
    if prompt.shape != expected:
        raise TuningInputError(f"{what}: shape {prompt.shape}, expected {expected}")
    if not np.isfinite(prompt).all():
        raise TuningInputError(f"{what}: holds values that are not finite")
    return np.ascontiguousarray(prompt, dtype=np.float32)


def _embed(model: BaseModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        rows = model.embed(torch.from_numpy(ids).to(model.device))
        return rows.float().cpu().numpy()
