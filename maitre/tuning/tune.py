"""Soft-prompt tuning of one task, or of many in one shared batch.

The base model is frozen, so rows of different tasks, each with its own task's soft prompt, share
one forward and one backward pass (prompt tuning: Lester et al. 2021).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.checkpoint import Keeper, run_identity
from maitre.tuning.config import TuneConfig, TuneResult, TuningInputError
from maitre.tuning.evaluate import prompt_losses, summed_over
from maitre.tuning.forward import answer_losses
from maitre.tuning.iterate import Clock, OnIteration, ShouldStop, check_shares, iterate
from maitre.tuning.rows import fill_together, joined
from maitre.tuning.soft_prompt import checked_prompt, random_init
from maitre.tuning.task_run import RunState, TaskData, TaskRun
from maitre.tuning.tasks import Task
from maitre.tuning.workers import ALONE, Workers

PASS_ROWS = 128
"""Rows of different tasks that go through the model together."""


def tune(
    model: BaseModel,
    task: Task,
    *,
    init: np.ndarray | None,
    config: TuneConfig,
    seed: int,
    on_iteration: OnIteration | None = None,
    should_stop: ShouldStop | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
    workers: Workers = ALONE,
    clock: Clock = time.monotonic,
    tenant: str | None = None,
) -> TuneResult:
    """Tune a soft prompt for one task.

    `init` is float `[virtual_tokens, hidden]`, or `None` for the cold random start of `seed`. The
    same seed visits the same train examples in the same order, whatever the start. `should_stop`
    is called before every iteration; a cancelled run returns the best prompt it has evaluated.

    With a `checkpoint` file, the state is stored there every `checkpoint_every` iterations and at
    the end, and a run whose checkpoint is there goes on from it: on a CPU to the very same prompt,
    bit for bit, that an uninterrupted run gives. `init` then only matters for a fresh run.
    A checkpoint that was written for a `tenant` is continued for that tenant only.

    With `workers`, each worker calls this function with the same arguments and takes its share of
    the rows. All return the same result, which differs from that of one process only by the
    rounding of sums. The first worker writes the checkpoint, which all must see.
    Raises `TuningInputError` for what cannot be tuned.
    """
    [result] = tune_many(
        model,
        [task],
        inits=[init],
        config=config,
        seeds=[seed],
        on_iteration=on_iteration,
        should_stop=should_stop,
        checkpoints=[checkpoint],
        checkpoint_every=checkpoint_every,
        workers=workers,
        clock=clock,
        tenant=tenant,
    )
    return result


def tune_many(
    model: BaseModel,
    tasks: Sequence[Task],
    *,
    inits: Sequence[np.ndarray | None],
    config: TuneConfig,
    seeds: Sequence[int],
    on_iteration: OnIteration | None = None,
    should_stop: ShouldStop | None = None,
    checkpoints: Sequence[Path | None] | None = None,
    checkpoint_every: int = 10,
    workers: Workers = ALONE,
    clock: Clock = time.monotonic,
    tenant: str | None = None,
) -> list[TuneResult]:
    """Tune a soft prompt for each task in one shared batch; return results in the tasks' order.

    Each pass holds `config.batch_size` rows of every task that is still running; a task leaves
    when it meets its target. Tasks influence each other only by the rounding of sums.
    """
    if not len(tasks) == len(inits) == len(seeds):
        raise TuningInputError(
            f"{len(tasks)} tasks, {len(inits)} inits and {len(seeds)} seeds: as many of each needed"
        )
    started_s = clock()
    check_shares(config, workers)
    data = _read_once(model, tasks, config, seeds, workers)
    runs = [
        TaskRun(one, config, _initial_state(model, one, init, config))
        for one, init in zip(data, inits, strict=True)
    ]
    keepers = [
        Keeper(path, run_identity(model, task, config, seed, tenant), checkpoint_every)
        for path, task, seed in zip(checkpoints or [None] * len(runs), tasks, seeds, strict=True)
    ]
    iterate(
        model,
        runs,
        keepers,
        PromptLearner(model, config, workers),
        workers=workers,
        on_iteration=on_iteration,
        should_stop=should_stop,
        clock=clock,
    )
    return [_result(run, clock() - started_s) for run in runs]


class PromptLearner:
    """Gradients and losses of soft prompts, the runs side by side."""

    def __init__(self, model: BaseModel, config: TuneConfig, workers: Workers) -> None:
        self._model, self._config, self._workers = model, config, workers

    def gradients(self, runs: Sequence[TaskRun]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return what `Learner.gradients` returns.

        Runs share passes of up to `PASS_ROWS` rows: more rows cost memory and save no time.
        """
        together = max(1, PASS_ROWS // self._config.batch_size)
        passes = [
            self._shared_pass(runs[start : start + together])
            for start in range(0, len(runs), together)
        ]
        losses = torch.cat([losses for losses, _ in passes])
        return losses, [one for _, gradients in passes for one in gradients]

    def evaluate(self, run: TaskRun) -> torch.Tensor:
        """Return what `Learner.evaluate` returns."""
        losses = prompt_losses(self._model, run.state.values, self._config.position)
        return summed_over(run.data.eval, losses)

    def _shared_pass(self, runs: Sequence[TaskRun]) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [(run.data.train, run.places(self._workers)) for run in runs]
        if len(runs) > 1:
            fill_together(self._model, wanted)
        batches = [rows.batch(places) for rows, places in wanted]
        prompts = torch.stack([run.state.values for run in runs]).requires_grad_()
        owner = [index for index, batch in enumerate(batches) for _ in batch.examples]
        rows = joined(self._model, batches)
        losses, _ = answer_losses(self._model, prompts[owner], rows, self._config.position)
        means = losses.view(len(runs), -1).sum(1) / self._config.batch_size
        # A task's mean depends on its own prompt only: their sum has each task's own gradient.
        [gradients] = torch.autograd.grad(means.sum(), prompts)
        return means.detach(), gradients


def _initial_state(
    model: BaseModel, data: TaskData, init: np.ndarray | None, config: TuneConfig
) -> RunState:
    """Return the state before the first step: from `init`, or the cold start of the data's seed."""
    if init is None:
        init = random_init(model, config.virtual_tokens, data.seed)
    what = f"start for task {data.name!r}"
    values = checked_prompt(model, init, config.virtual_tokens, what).copy()
    return RunState.fresh(torch.from_numpy(values).to(model.device))


def _read_once(
    model: BaseModel,
    tasks: Sequence[Task],
    config: TuneConfig,
    seeds: Sequence[int],
    workers: Workers,
) -> list[TaskData]:
    """Return each run's data; read and cache once what runs of a task have in common."""
    of_task: dict[int, TaskData] = {}
    of_seed: dict[tuple[int, int], TaskData] = {}
    for task, seed in zip(tasks, seeds, strict=True):
        if (id(task), seed) not in of_seed:
            read = TaskData.read(model, task, config, seed, of_task.get(id(task)), workers)
            of_seed[id(task), seed] = of_task[id(task)] = read
    return [of_seed[id(task), seed] for task, seed in zip(tasks, seeds, strict=True)]


def _result(run: TaskRun, seconds: float) -> TuneResult:
    """Return the result of a run; `seconds` is the wall time since it was started or resumed."""
    state = run.state
    _, loss, accuracy = state.best_point or (0, float("nan"), 0.0)
    return TuneResult(
        task=run.data.name,
        prompt=state.best.cpu().numpy(),
        reached=state.reached,
        iterations=state.iteration,
        eval_loss=loss,
        eval_accuracy=accuracy,
        seconds=state.seconds + seconds,
        curve=state.curve,
        stopped_because=state.stopped_because or "cancelled",
    )
