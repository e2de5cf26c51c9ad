"""Many prompts on a few examples: losses for a lookup, output distributions for the bank's map."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position
from maitre.tuning.encoding import EncodedExample
from maitre.tuning.forward import answer_logits, answer_losses
from maitre.tuning.prompt_tokens import PromptTokens
from maitre.tuning.rows import InputCache, RowBatch, repeated

PROBES = (
    "Paris",
    "17 March 1984",
    "the old house",
    "wonderful",
    "gold or silver",
    "twenty-five",
    "Ich weiß es nicht",
    "running",
)
"""Inputs on which output distributions are compared: short, of many kinds, not from a task."""

_PASS_ROWS = 64
_DIMENSIONS_PER_PROBE = 32
_PROJECTION_SEED = 0


class PromptScorer:
    """Losses of prompts on fixed examples, whose inputs pass through the model only once."""

    def __init__(
        self, model: BaseModel, examples: Sequence[EncodedExample], position: Position
    ) -> None:
        self._model, self._position = model, position
        together = [range(len(examples))]
        self._cache = InputCache(model, examples, position, 1 << 32, together)

    @torch.inference_mode()
    def __call__(self, prompts: np.ndarray, samples: range) -> np.ndarray:
        """Return the mean loss of each prompt `[n, virtual_tokens, hidden]` over some examples."""
        batch = self._cache.batch(samples)
        losses = [
            answer_losses(self._model, rows, tiled, self._position)[0].view(count, -1).mean(1)
            for rows, tiled, count in _passes(self._model, prompts, batch)
        ]
        return torch.cat(losses).cpu().numpy()


@torch.inference_mode()
def output_distributions(
    model: BaseModel,
    prompts: np.ndarray,
    position: Position,
    probes: Sequence[str] = PROBES,
) -> np.ndarray:
    """Return the model's answers to the probes under each prompt: float32 `[n, probes * 32]`.

    Per probe, the square roots of the next-token probabilities (whose inner product is the
    Bhattacharyya coefficient) after one fixed random projection.
    """
    tokens = PromptTokens(model.tokenizer)
    stop = model.tokenizer.eos_token_id or 0
    examples = [EncodedExample(tokens.input_ids(text), (stop,)) for text in probes]
    together = range(len(examples))
    batch = InputCache(model, examples, position, 1 << 32, [together]).batch(together)
    generator = torch.Generator().manual_seed(_PROJECTION_SEED)
    shape = (model.embeddings.shape[0], _DIMENSIONS_PER_PROBE)
    projection = (torch.randn(shape, generator=generator) / shape[1] ** 0.5).to(model.device)
    found = []
    for rows, tiled, count in _passes(model, prompts, batch):
        roots = answer_logits(model, rows, tiled, position).softmax(-1).sqrt()
        found.append((roots[:, : shape[0]] @ projection).view(count, -1))
    return torch.cat(found).cpu().numpy()


def _passes(
    model: BaseModel, prompts: np.ndarray, batch: RowBatch
) -> Iterator[tuple[torch.Tensor, RowBatch, int]]:
    """Yield passes of prompts over all rows of `batch`: a prompt per row, rows, their number."""
    per_pass = max(1, _PASS_ROWS // len(batch.examples))
    tiled = repeated(batch, min(per_pass, len(prompts)))
    for start in range(0, len(prompts), per_pass):
        group = torch.from_numpy(prompts[start : start + per_pass]).to(model.device)
        if len(group) * len(batch.examples) != len(tiled.examples):
            tiled = repeated(batch, len(group))
        yield group.repeat_interleave(len(batch.examples), dim=0), tiled, len(group)
