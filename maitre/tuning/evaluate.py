"""A soft prompt's result on a task's eval split."""

from collections.abc import Sequence

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Evaluation, Position
from maitre.tuning.encoding import EncodedTask, encode
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import RowBatch, fixed_batches
from maitre.tuning.soft_prompt import checked_prompt
from maitre.tuning.tasks import Task

EVAL_BATCH_ROWS = 256
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
    batches = eval_batches(model, encoded, position, None)
    loss, accuracy = evaluate_batches(model, torch.from_numpy(prompt), batches, position)
    return Evaluation(loss, accuracy, encoded.majority_share, len(encoded.eval))


def eval_batches(
    model: BaseModel, task: EncodedTask, position: Position, eval_rows: int | None
) -> list[RowBatch]:
    """The eval split (or its first `eval_rows`) in batches that are evaluated again and again."""
    return fixed_batches(model, task.eval[:eval_rows], position, EVAL_BATCH_ROWS, EVAL_BATCH_TOKENS)


@torch.inference_mode()
def evaluate_batches(
    model: BaseModel, prompt: torch.Tensor, batches: Sequence[RowBatch], position: Position
) -> tuple[float, float]:
    """Mean loss and accuracy of one prompt `[virtual_tokens, hidden]` over all rows."""
    losses, exact = [], []
    for batch in batches:
        prompts = prompt.to(model.device).expand(len(batch.examples), -1, -1)
        row_losses, row_exact = answer_losses(model, prompts, batch, position)
        losses.append(row_losses)
        exact.append(row_exact)
    return float(torch.cat(losses).mean()), float(torch.cat(exact).float().mean())
