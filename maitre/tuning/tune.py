"""Soft-prompt tuning of one task, or of many in one shared batch.

The base model is frozen, so rows of different tasks, each with its own task's soft prompt, share
one forward and one backward pass (prompt tuning: Lester et al. 2021).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maitre.tuning.adam import AdamState, adam_step
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import (
    CurvePoint,
    Progress,
    StopReason,
    TuneConfig,
    TuneResult,
    TuningInputError,
)
from maitre.tuning.encoding import encode
from maitre.tuning.evaluate import eval_batches, evaluate_batches
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import InputCache, RowBatch, joined
from maitre.tuning.soft_prompt import checked_prompt, random_init
from maitre.tuning.tasks import Metric, Task

OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]
Clock = Callable[[], float]


def tune(
    model: BaseModel,
    task: Task,
    *,
    init: np.ndarray | None,
    config: TuneConfig,
    seed: int,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    clock: Clock = time.monotonic,
) -> TuneResult:
    """Tune a soft prompt for one task.

    `init` is float `[virtual_tokens, hidden]`, or `None` for the cold random start of `seed`. The
    same seed visits the same train examples in the same order, whatever the start. `should_stop`
    is asked before every iteration; a cancelled run returns the best prompt it has evaluated.
    Raises `TuningInputError` for what cannot be tuned.
    """
    [result] = tune_many(
        model,
        [task],
        inits=[init],
        config=config,
        seeds=[seed],
        on_progress=on_progress,
        should_stop=should_stop,
        clock=clock,
    )
    return result


def tune_many(
    model: BaseModel,
    tasks: Sequence[Task],
    *,
    inits: Sequence[np.ndarray | None],
    config: TuneConfig,
    seeds: Sequence[int],
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    clock: Clock = time.monotonic,
) -> list[TuneResult]:
    """Tune a soft prompt for each task, all in one shared batch; results in the tasks' order.

    Each pass holds `config.batch_size` rows of every task that is still running; a task leaves
    when it meets its target. Tasks do not influence each other (but for the rounding of sums).
    """
    if not len(tasks) == len(inits) == len(seeds):
        raise TuningInputError(
            f"{len(tasks)} tasks, {len(inits)} inits and {len(seeds)} seeds: as many of each needed"
        )
    started_s = clock()
    runs = [
        _TaskRun.start(model, task, init, config, seed)
        for task, init, seed in zip(tasks, inits, seeds, strict=True)
    ]
    tell = on_progress or _nobody

    def report(run: _TaskRun, train_loss: float | None) -> None:
        evaluated = run.curve[-1] if run.curve and run.curve[-1][0] == run.iteration else None
        eval_loss, eval_accuracy = (evaluated[1], evaluated[2]) if evaluated else (None, None)
        seconds = clock() - started_s
        tell(Progress(run.name, run.iteration, train_loss, eval_loss, eval_accuracy, seconds))

    for run in runs:
        if config.eval_every is not None:
            run.evaluate(model, config)
            report(run, None)
    while active := [run for run in runs if run.stopped_because is None]:
        if should_stop is not None and should_stop():
            for run in active:
                run.stopped_because = "cancelled"
            break
        train_losses = _shared_step(model, active, config)
        for run, train_loss in zip(active, train_losses, strict=True):
            if run.stopped_because is None and run.is_evaluation_due(config):
                run.evaluate(model, config)
            report(run, train_loss)
    for run in runs:
        if not run.curve:  # stopped before its first evaluation
            run.evaluate(model, config)
    seconds = clock() - started_s
    return [run.result(seconds) for run in runs]


def batch_indices(seed: int, iteration: int, batch_size: int, examples: int) -> list[int]:
    """The train examples of one iteration (from 0): epochs of seeded permutations, end to end.

    A function of its arguments alone, so a resumed run sees the very batches it would have seen.
    """
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    epochs = {place // examples for place in places}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(examples) for epoch in epochs}
    return [int(orders[place // examples][place % examples]) for place in places]


@dataclass
class _TaskRun:
    """One task on its way: the prompt, the optimiser's state and the best evaluation so far."""

    name: str
    metric: Metric
    seed: int
    train: InputCache
    eval: list[RowBatch]
    prompt: torch.Tensor
    adam: AdamState
    curve: list[CurvePoint]
    best: torch.Tensor
    best_point: CurvePoint | None = None
    iteration: int = 0
    reached: bool = False
    stopped_because: StopReason | None = None

    @classmethod
    def start(
        cls, model: BaseModel, task: Task, init: np.ndarray | None, config: TuneConfig, seed: int
    ) -> "_TaskRun":
        if init is None:
            init = random_init(model, config.virtual_tokens, seed)
        what = f"start for task {task.name!r}"
        values = checked_prompt(model, init, config.virtual_tokens, what).copy()
        prompt = torch.from_numpy(values).to(model.device)
        encoded = encode(model, task, config.virtual_tokens)
        return cls(
            name=task.name,
            metric=task.metric,
            seed=seed,
            train=InputCache(model, encoded.train, config.position, config.cache_limit_bytes),
            eval=eval_batches(model, encoded, config.position, config.eval_rows),
            prompt=prompt,
            adam=AdamState.fresh(prompt),
            curve=[],
            best=prompt,
        )

    def batch(self, config: TuneConfig) -> RowBatch:
        """The train rows of the coming iteration."""
        return self.train.batch(
            batch_indices(self.seed, self.iteration, config.batch_size, len(self.train))
        )

    def take_step(self, loss: float, gradient: torch.Tensor, config: TuneConfig) -> None:
        """Move the prompt, unless loss or gradient is no number: then the run ends as it was."""
        if not np.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            self.stopped_because = "diverged"
            return
        self.prompt, self.adam = adam_step(self.prompt, gradient, self.adam, config.learning_rate)
        self.iteration += 1

    def is_evaluation_due(self, config: TuneConfig) -> bool:
        if self.iteration >= config.max_iterations:
            return True
        return config.eval_every is not None and self.iteration % config.eval_every == 0

    def evaluate(self, model: BaseModel, config: TuneConfig) -> None:
        """Evaluate the prompt as it stands; keep it when it is the best; stop when it is enough."""
        loss, accuracy = evaluate_batches(model, self.prompt, self.eval, config.position)
        if not np.isfinite(loss):
            self.stopped_because = "diverged"
            return
        point = (self.iteration, loss, accuracy)
        self.curve.append(point)
        if config.is_target_met(loss, accuracy):
            self.best, self.best_point = self.prompt, point
            self.reached, self.stopped_because = True, "target"
            return
        if self.best_point is None or _is_better(self.metric, point, self.best_point):
            self.best, self.best_point = self.prompt, point
        if self.iteration >= config.max_iterations:
            self.stopped_because = "max_iterations"

    def result(self, seconds: float) -> TuneResult:
        _, loss, accuracy = self.best_point or (0, float("nan"), 0.0)
        return TuneResult(
            task=self.name,
            prompt=self.best.cpu().numpy(),
            reached=self.reached,
            iterations=self.iteration,
            eval_loss=loss,
            eval_accuracy=accuracy,
            seconds=seconds,
            curve=tuple(self.curve),
            stopped_because=self.stopped_because or "cancelled",
        )


def _shared_step(model: BaseModel, runs: Sequence[_TaskRun], config: TuneConfig) -> list[float]:
    """One optimiser step of every run, from one pass over all their rows; the mean train losses."""
    batches = [run.batch(config) for run in runs]
    prompts = torch.stack([run.prompt for run in runs]).requires_grad_()
    owner = [index for index, batch in enumerate(batches) for _ in batch.examples]
    losses, _ = answer_losses(model, prompts[owner], joined(model, batches), config.position)
    means = losses.view(len(runs), config.batch_size).mean(1)
    [gradients] = torch.autograd.grad(means.sum(), prompts)
    values = means.tolist()
    for run, loss, gradient in zip(runs, values, gradients, strict=True):
        run.take_step(loss, gradient, config)
    return values


def _is_better(metric: Metric, point: CurvePoint, best: CurvePoint) -> bool:
    """By the task's own metric, ties by the other."""
    if metric == "accuracy":
        return (point[2], -point[1]) > (best[2], -best[1])
    return (-point[1], point[2]) > (-best[1], best[2])


def _nobody(progress: Progress) -> None:
    """Hears a report and does nothing."""
    del progress
