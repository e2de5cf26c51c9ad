"""LoRA adapters through peft: the same tasks, targets, stops and checkpoints as soft prompts.

LoRA (Hu et al. 2021) adds to frozen weight matrices a product of two thin ones of a rank. The
adapter is written in peft's own format, which vLLM serves.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.checkpoint import Keeper, run_identity
from maitre.tuning.config import CurvePoint, LoraConfig, StopReason
from maitre.tuning.evaluate import summed_over
from maitre.tuning.export import write_folder
from maitre.tuning.forward import answer_row_losses
from maitre.tuning.iterate import Clock, OnIteration, ShouldStop, check_shares, iterate
from maitre.tuning.lora_weights import LoraWeights, flat, peft_config
from maitre.tuning.rows import IGNORED, RowBatch
from maitre.tuning.task_run import RunState, TaskData, TaskRun
from maitre.tuning.tasks import Task
from maitre.tuning.workers import ALONE, Workers

EVAL_PART_ROWS = 64
"""Eval rows that pass together: whole inputs go through the model, not only the answers."""


@dataclass(frozen=True, eq=False)
class LoraResult:
    """A tuned adapter: `weights` by peft's names, of the best evaluation or the one at the target.

    `is_transposed` says that the model stores its matrices the other way round, as GPT-2 does. The
    other fields are those of `TuneResult`.
    """

    task: str
    weights: dict[str, torch.Tensor]
    config: LoraConfig
    reached: bool
    iterations: int
    eval_loss: float
    eval_accuracy: float
    seconds: float
    curve: tuple[CurvePoint, ...]
    stopped_because: StopReason
    is_transposed: bool = False


def tune_lora(
    model: BaseModel,
    task: Task,
    *,
    config: LoraConfig,
    seed: int,
    on_iteration: OnIteration | None = None,
    should_stop: ShouldStop | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
    workers: Workers = ALONE,
    clock: Clock = time.monotonic,
    tenant: str | None = None,
) -> LoraResult:
    """Tune a LoRA adapter for one task; leave the base model unchanged.

    Checkpoints, resuming, stopping and `workers` are those of `maitre.tuning.tune.tune`. Raises
    `TuningInputError` for what cannot be tuned, such as layers that the model lacks.
    """
    started_s = clock()
    check_shares(config, workers)
    data = TaskData.read(model, task, config, seed, workers=workers)
    weights = LoraWeights(model, config, seed)
    try:
        run = TaskRun(data, config, RunState.fresh(weights.values))
        iterate(
            model,
            [run],
            [Keeper(checkpoint, run_identity(model, task, config, seed, tenant), checkpoint_every)],
            LoraLearner(model, weights, workers),
            workers=workers,
            on_iteration=on_iteration,
            should_stop=should_stop,
            clock=clock,
        )
        weights.put(run.state.best)
        named, targets = weights.named(), weights.target_modules
    finally:
        weights.remove()
    state = run.state
    _, loss, accuracy = state.best_point or (0, float("nan"), 0.0)
    return LoraResult(
        task=task.name,
        weights=named,
        config=replace(config, target_modules=targets),
        reached=state.reached,
        iterations=state.iteration,
        eval_loss=loss,
        eval_accuracy=accuracy,
        seconds=state.seconds + clock() - started_s,
        curve=state.curve,
        stopped_because=state.stopped_because or "cancelled",
        is_transposed=weights.is_transposed,
    )


def export_lora(result: LoraResult, folder: Path, *, base_model: str) -> Path:
    """Write the adapter in peft's format (safetensors); whole or not at all.

    `base_model` is the folder or hub id that peft loads the base model from. Raises
    `TuningInputError` when `folder` is there already.
    """
    import safetensors.torch

    def write(into: Path) -> None:
        is_transposed = result.is_transposed
        described = peft_config(result.config, base_model, is_transposed=is_transposed)
        described.save_pretrained(into)
        safetensors.torch.save_file(
            result.weights, into / "adapter_model.safetensors", {"format": "pt"}
        )
        (into / "maitre.json").write_text(
            json.dumps({"task": result.task, "eval_loss": result.eval_loss}) + "\n"
        )

    return write_folder(folder, write)


class LoraLearner:
    """Gradients and losses of an adapter's weights."""

    def __init__(self, model: BaseModel, weights: LoraWeights, workers: Workers) -> None:
        self._model, self._weights, self._workers = model, weights, workers

    def gradients(self, runs: Sequence[TaskRun]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return what `Learner.gradients` returns."""
        found = [self._gradient(run) for run in runs]
        return torch.stack([loss for loss, _ in found]), [gradient for _, gradient in found]

    def evaluate(self, run: TaskRun) -> torch.Tensor:
        """Return what `Learner.evaluate` returns."""
        self._weights.put(run.state.values)
        return summed_over(run.data.eval, self._row_losses)

    def _gradient(self, run: TaskRun) -> tuple[torch.Tensor, torch.Tensor]:
        self._weights.put(run.state.values)
        batch = run.data.train.batch(run.places(self._workers))
        with self._weights.dropping([run.data.seed, run.state.iteration, self._workers.rank]):
            losses, _ = _part_losses(self._model, batch)
        mean = losses.sum() / run.config.batch_size
        return mean.detach(), flat(torch.autograd.grad(mean, self._weights.parameters))

    def _row_losses(self, batch: RowBatch) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            _part_losses(self._model, batch.rows(slice(start, start + EVAL_PART_ROWS)))
            for start in range(0, len(batch.examples), EVAL_PART_ROWS)
        ]
        return torch.cat([losses for losses, _ in parts]), torch.cat([exact for _, exact in parts])


def _part_losses(model: BaseModel, batch: RowBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's mean loss, and whether greedy decoding gives its answer."""
    rows = batch.examples
    longest = max(len(row.input_ids) + len(row.answer_ids) for row in rows)
    if len(rows) > 1 and model.fixed_rotations is not None and longest > model.fixed_rotations:
        # Padding would change the rotations of shorter rows.
        alone = [_part_losses(model, batch.rows(slice(row, row + 1))) for row in range(len(rows))]
        return torch.cat([one[0] for one in alone]), torch.cat([one[1] for one in alone])
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    wanted = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        cut, end = len(row.input_ids), len(row.input_ids) + len(row.answer_ids)
        ids[place, :end] = torch.tensor(row.input_ids + row.answer_ids)
        wanted[place, cut - 1 : end - 1] = torch.tensor(row.answer_ids)
    ids, wanted = ids.to(model.device), wanted.to(model.device)
    # Right padding: nothing that counts attends to it.
    logits = model.logits(wanted != IGNORED, input_ids=ids, **model.without_cache)
    return answer_row_losses(logits.float(), wanted)
