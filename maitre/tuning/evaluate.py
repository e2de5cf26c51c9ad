"""A soft prompt's result on a task's eval split."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Evaluation, Position
from maitre.tuning.encoding import EncodedExample, encode
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import RowBatch, fixed_batches
from maitre.tuning.soft_prompt import checked_prompt
from maitre.tuning.tasks import Task

RowLosses = Callable[[RowBatch], tuple[torch.Tensor, torch.Tensor]]
"""Each row's loss and whether it is answered exactly, `[rows]` both."""

EVAL_BATCH_ROWS = 128
EVAL_BATCH_TOKENS = 8192
"""Rows and input-and-answer tokens that are evaluated together; few rows of long ones, so that
the logits of all their answers fit in memory."""


def evaluate(
    model: BaseModel, task: Task, prompt: np.ndarray, position: Position = "suffix"
) -> Evaluation:
    """Evaluate `prompt [virtual_tokens, hidden]` on every eval example.

    Raises `TuningInputError` for a prompt of another width or with values that are not finite.
    """
    virtual_tokens = prompt.shape[0] if prompt.ndim == 2 else 0
    prompt = checked_prompt(model, prompt, virtual_tokens, f"prompt for task {task.name!r}")
    encoded = encode(model, task, virtual_tokens)
    batches = eval_batches(model, encoded.eval, position)
    losses = prompt_losses(model, torch.from_numpy(prompt), position)
    loss, exact, count = summed_over(batches, losses).tolist()
    return Evaluation(loss / count, exact / count, encoded.majority_share, len(encoded.eval))


def eval_batches(
    model: BaseModel, examples: Sequence[EncodedExample], position: Position
) -> list[RowBatch]:
    """Return eval examples in batches for repeated evaluation."""
    return fixed_batches(model, examples, position, EVAL_BATCH_ROWS, EVAL_BATCH_TOKENS)


class EvalBatches:
    """The batches of `eval_batches`, whose inputs pass through the model at their first use."""

    def __init__(
        self, model: BaseModel, examples: Sequence[EncodedExample], position: Position
    ) -> None:
        self._model, self._examples, self._position = model, examples, position

    def __iter__(self) -> Iterator[RowBatch]:
        return iter(self._batches)

    @cached_property
    def _batches(self) -> list[RowBatch]:
        return eval_batches(self._model, self._examples, self._position)


@torch.inference_mode()
def summed_over(batches: Iterable[RowBatch], row_losses: RowLosses) -> torch.Tensor:
    """Return `[sum of losses, rows answered exactly, rows]` over all batches, float64."""
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        losses, exact = row_losses(batch)
        counted = [losses.double().sum(), exact.sum(), torch.tensor(len(batch.examples))]
        sums += torch.stack([one.double().cpu() for one in counted])
    return sums


def prompt_losses(model: BaseModel, prompt: torch.Tensor, position: Position) -> RowLosses:
    """Return the losses of any batch's rows under one prompt `[virtual_tokens, hidden]`."""

    def losses(batch: RowBatch) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = prompt.to(model.device).expand(len(batch.examples), -1, -1)
        return answer_losses(model, prompts, batch, position)

    return losses
