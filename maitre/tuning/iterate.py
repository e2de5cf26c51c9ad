"""The loop of a tuning: steps, evaluations, targets, checkpoints. What is learned may differ."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.checkpoint import Keeper
from maitre.tuning.config import IterationReport, RunConfig, TuningInputError
from maitre.tuning.task_run import RunState, TaskRun
from maitre.tuning.workers import Workers

OnIteration = Callable[[IterationReport], None]
ShouldStop = Callable[[], bool]
Clock = Callable[[], float]


class Learner(Protocol):
    """How a soft prompt, or an adapter, comes to losses and gradients."""

    def gradients(self, runs: Sequence[TaskRun]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Return each run's train loss `[runs]` and its gradient, of this worker's rows.

        Both are sums over these rows divided by the rows of the whole batch.
        """

    def evaluate(self, run: TaskRun) -> torch.Tensor:
        """Return `[sum of losses, rows answered exactly, rows]` of own eval rows, float64."""


def check_shares(config: RunConfig, workers: Workers) -> None:
    """Raise `TuningInputError` unless every worker has a row of each batch."""
    if config.batch_size < workers.size:
        raise TuningInputError(
            f"{workers.size} workers cannot share batches of {config.batch_size} rows"
        )


def iterate(
    model: BaseModel,
    runs: Sequence[TaskRun],
    keepers: Sequence[Keeper],
    learner: Learner,
    *,
    workers: Workers,
    on_iteration: OnIteration | None,
    should_stop: ShouldStop | None,
    clock: Clock,
) -> None:
    """Take every run on, from its checkpoint where it has one, until it stops.

    The start is evaluated after the first step has been computed, so that the step begins at once:
    preparing and evaluating the eval split takes several times as long as a step. The curve is the
    same as if the start were evaluated first: the step is dropped when the start meets the target
    or its loss is not a number.
    """
    started_s = clock()
    for run, keeper in zip(runs, keepers, strict=True):
        keeper.resume(model, run)

    def evaluate(run: TaskRun) -> None:
        loss, exact, count = workers.total(learner.evaluate(run).to(model.device)).tolist()
        run.take_evaluation(loss / count, exact / count)

    def report(run: TaskRun, train_loss: float | None) -> None:
        if on_iteration is not None:
            on_iteration(_report_of(run, train_loss, clock() - started_s))

    def evaluate_start(run: TaskRun, start: RunState) -> None:
        stepped, run.state = run.state, start
        evaluate(run)
        report(run, None)
        if run.is_active:
            run.state = replace(
                stepped, curve=start.curve, best=start.best, best_point=start.best_point
            )

    kept_runs = list(zip(runs, keepers, strict=True))
    while active := [(run, keeper) for run, keeper in kept_runs if run.is_active]:
        if workers.agreed(should_stop is not None and should_stop(), model.device):
            for run, _ in active:
                run.state.stopped_because = "cancelled"
            break
        starts = [replace(run.state) if run.is_start_unknown() else None for run, _ in active]
        train_losses = _step(learner, [run for run, _ in active], workers)
        for (run, keeper), start, train_loss in zip(active, starts, train_losses, strict=True):
            if start is not None:
                evaluate_start(run, start)
                if run.state is start:
                    continue
            if run.is_active and run.is_evaluation_due():
                evaluate(run)
            report(run, train_loss)
            if workers.is_first:
                keeper.keep_when_due(run, clock() - started_s)
    seconds = clock() - started_s
    for run, keeper in kept_runs:
        if workers.is_first:
            keeper.keep(run, seconds)
        if not run.state.curve:  # stopped before its first evaluation
            evaluate(run)


def _step(learner: Learner, runs: Sequence[TaskRun], workers: Workers) -> list[float]:
    """Take one optimiser step of every run; return the mean train losses."""
    losses, gradients = learner.gradients(runs)
    parts = torch.cat([losses, *(gradient.flatten() for gradient in gradients)])
    totals = workers.total(parts).split([len(runs), *(one.numel() for one in gradients)])
    values: list[float] = totals[0].tolist()
    for run, loss, gradient in zip(runs, values, totals[1:], strict=True):
        run.take_step(loss, gradient.view_as(run.state.values))
    return values


def _report_of(run: TaskRun, train_loss: float | None, seconds: float) -> IterationReport:
    state = run.state
    is_evaluated = bool(state.curve) and state.curve[-1][0] == state.iteration
    _, loss, accuracy = state.curve[-1] if is_evaluated else (0, None, None)
    return IterationReport(run.data.name, state.iteration, train_loss, loss, accuracy, seconds)
