"""Soft-prompt tuning of one task, or of many in one shared batch.

The base model is frozen, so rows of different tasks, each with its own task's soft prompt, share
one forward and one backward pass (prompt tuning: Lester et al. 2021).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.checkpoint import load_checkpoint, run_identity, save_checkpoint
from maitre.tuning.config import Progress, TuneConfig, TuneResult, TuningInputError
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import joined
from maitre.tuning.task_run import TaskData, TaskRun
from maitre.tuning.tasks import Task

PASS_ROWS = 128
"""Rows of different tasks that go through the model together."""

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
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
    clock: Clock = time.monotonic,
) -> TuneResult:
    """Tune a soft prompt for one task.

    `init` is float `[virtual_tokens, hidden]`, or `None` for the cold random start of `seed`. The
    same seed visits the same train examples in the same order, whatever the start. `should_stop`
    is asked before every iteration; a cancelled run returns the best prompt it has evaluated.

    With a `checkpoint` file, the state is stored there every `checkpoint_every` iterations and at
    the end, and a run whose checkpoint is there goes on from it: on a CPU to the very same prompt,
    bit for bit, that an uninterrupted run gives. `init` then only matters for a fresh run.
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
        checkpoints=[checkpoint],
        checkpoint_every=checkpoint_every,
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
    checkpoints: Sequence[Path | None] | None = None,
    checkpoint_every: int = 10,
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
    data = _read_once(model, tasks, config, seeds)
    runs = [TaskRun.start(model, one, init, config) for one, init in zip(data, inits, strict=True)]
    keepers = [
        _Keeper(path, run_identity(model, task, config, seed), checkpoint_every)
        for path, task, seed in zip(checkpoints or [None] * len(runs), tasks, seeds, strict=True)
    ]
    for run, keeper in zip(runs, keepers, strict=True):
        keeper.resume(model, run)
    tell = on_progress or _nobody

    def report(run: TaskRun, train_loss: float | None) -> None:
        state = run.state
        is_evaluated = bool(state.curve) and state.curve[-1][0] == state.iteration
        _, loss, accuracy = state.curve[-1] if is_evaluated else (0, None, None)
        seconds = clock() - started_s
        tell(Progress(run.data.name, state.iteration, train_loss, loss, accuracy, seconds))

    for run in runs:
        if config.eval_every is not None and run.is_active and not run.state.curve:
            run.evaluate(model)
            report(run, None)
    kept_runs = list(zip(runs, keepers, strict=True))
    while active := [(run, keeper) for run, keeper in kept_runs if run.is_active]:
        if should_stop is not None and should_stop():
            for run, _ in active:
                run.state.stopped_because = "cancelled"
            break
        train_losses = _shared_step(model, [run for run, _ in active])
        for (run, keeper), train_loss in zip(active, train_losses, strict=True):
            if run.is_active and run.is_evaluation_due():
                run.evaluate(model)
            report(run, train_loss)
            keeper.keep_when_due(run, clock() - started_s)
    seconds = clock() - started_s
    for run, keeper in kept_runs:
        keeper.keep(run, seconds)
        if not run.state.curve:  # stopped before its first evaluation
            run.evaluate(model)
    return [run.result(clock() - started_s) for run in runs]


def _read_once(
    model: BaseModel, tasks: Sequence[Task], config: TuneConfig, seeds: Sequence[int]
) -> list[TaskData]:
    """Each run's data; what several runs of a task have in common is read and cached once."""
    of_task: dict[int, TaskData] = {}
    of_seed: dict[tuple[int, int], TaskData] = {}
    for task, seed in zip(tasks, seeds, strict=True):
        if (id(task), seed) not in of_seed:
            read = TaskData.read(model, task, config, seed, like=of_task.get(id(task)))
            of_seed[id(task), seed] = of_task[id(task)] = read
    return [of_seed[id(task), seed] for task, seed in zip(tasks, seeds, strict=True)]


@dataclass(frozen=True)
class _Keeper:
    """Stores a run's state now and then; does nothing without a path."""

    path: Path | None
    identity: str
    every: int

    def resume(self, model: BaseModel, run: TaskRun) -> None:
        """Put the run where its checkpoint left it, when there is one."""
        if self.path is not None:
            run.state = load_checkpoint(self.path, model, self.identity) or run.state
            if run.is_active and run.state.iteration >= run.config.max_iterations:
                run.state.stopped_because = "max_iterations"

    def keep(self, run: TaskRun, seconds: float) -> None:
        """Store the state as it is."""
        if self.path is not None:
            save_checkpoint(self.path, run.state, self.identity, run.state.seconds + seconds)

    def keep_when_due(self, run: TaskRun, seconds: float) -> None:
        """Store the state at every so many iterations."""
        if run.state.iteration % self.every == 0:
            self.keep(run, seconds)


def _shared_step(model: BaseModel, runs: Sequence[TaskRun]) -> list[float]:
    """One optimiser step of every run; the mean train losses.

    Runs share passes of up to `PASS_ROWS` rows: more rows cost memory and save no time.
    """
    losses: list[float] = []
    size = runs[0].config.batch_size
    together = max(1, PASS_ROWS // size)
    for start in range(0, len(runs), together):
        losses += _shared_pass(model, runs[start : start + together], size)
    return losses


def _shared_pass(model: BaseModel, runs: Sequence[TaskRun], batch_size: int) -> list[float]:
    batches = [run.batch() for run in runs]
    prompts = torch.stack([run.state.prompt for run in runs]).requires_grad_()
    owner = [index for index, batch in enumerate(batches) for _ in batch.examples]
    position = runs[0].config.position
    losses, _ = answer_losses(model, prompts[owner], joined(model, batches), position)
    means = losses.view(len(runs), batch_size).mean(1)
    # Each task's mean depends on its own prompt only, so their sum has each task's own gradient.
    [gradients] = torch.autograd.grad(means.sum(), prompts)
    values: list[float] = means.tolist()
    for run, loss, gradient in zip(runs, values, gradients, strict=True):
        run.take_step(loss, gradient)
    return values


def _nobody(progress: Progress) -> None:
    """Hears a report and does nothing."""
    del progress
