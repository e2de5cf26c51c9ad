"""One task on its way through tuning: its rows, what is learned, the best evaluation so far."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maitre.tuning.adam import AdamState, adam_step
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import CurvePoint, Position, RunConfig, StopReason, TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.evaluate import EvalBatches
from maitre.tuning.rows import InputCache, RowBatch
from maitre.tuning.tasks import Metric, Task
from maitre.tuning.workers import ALONE, Workers


def batch_indices(seed: int, iteration: int, batch_size: int, examples: int) -> list[int]:
    """Return the train examples of one iteration (from 0), by seeded permutations per epoch.

    A function of its arguments alone, so a resumed run sees the very batches it would have seen.
    """
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    epochs = {place // examples for place in places}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(examples) for epoch in epochs}
    return [int(orders[place // examples][place % examples]) for place in places]


@dataclass
class RunState:
    """Everything of a run that changes, and that a resumed run needs.

    `values` and `best` are what is learned, float32: a soft prompt `[virtual_tokens, hidden]`, or
    all weights of an adapter end to end. `best_point` is the evaluation of `best`; `seconds` is the
    wall time that earlier sittings took.
    """

    values: torch.Tensor
    adam: AdamState
    best: torch.Tensor
    best_point: CurvePoint | None = None
    curve: tuple[CurvePoint, ...] = ()
    iteration: int = 0
    reached: bool = False
    stopped_because: StopReason | None = None
    seconds: float = 0.0

    @classmethod
    def fresh(cls, values: torch.Tensor) -> "RunState":
        """Return the state before the first iteration."""
        return cls(values=values, adam=AdamState.fresh(values), best=values)


@dataclass(frozen=True)
class TaskData:
    """A task's examples as a run of one seed passes them through the model.

    Runs of one task and seed may share it: a row's cached inputs do not depend on who asks first.
    """

    name: str
    metric: Metric
    seed: int
    train: InputCache
    eval: Iterable[RowBatch]

    @classmethod
    def read(
        cls,
        model: BaseModel,
        task: Task,
        config: RunConfig,
        seed: int,
        like: "TaskData | None" = None,
        workers: Workers = ALONE,
    ) -> "TaskData":
        """Tokenise the task; with `like`, its data of another seed, share the eval split of `like`.

        Only soft prompts that stand after their inputs have these cached. Raises
        `TuningInputError` for what cannot be tuned.
        """
        virtual_tokens, limit_bytes = 0, 0
        position: Position = "prefix"
        if isinstance(config, TuneConfig):
            virtual_tokens, position = config.virtual_tokens, config.position
            limit_bytes = config.cache_limit_bytes
        encoded = encode(model, task, virtual_tokens, eval=() if like else None)
        count = len(encoded.train)
        # The first epoch's batches: a row's inputs are always computed beside the same others, so
        # that a resumed run works with the very same numbers.
        order = np.random.default_rng([seed, 0]).permutation(count).tolist()
        size = config.batch_size
        groups = [
            part
            for start in range(0, count, size)
            for part in workers.shares(order[start : start + size])
        ]
        train = InputCache(model, encoded.train, position, limit_bytes, groups)
        if like is not None:
            evaluation = like.eval
        else:
            rows = workers.share(encoded.eval[: config.eval_rows])
            evaluation = EvalBatches(model, rows, position)
        return cls(task.name, task.metric, seed, train, evaluation)


@dataclass
class TaskRun:
    """A task's data and the state of its run."""

    data: TaskData
    config: RunConfig
    state: RunState

    @property
    def is_active(self) -> bool:
        """Whether the run has not stopped."""
        return self.state.stopped_because is None

    def places(self, workers: Workers = ALONE) -> Sequence[int]:
        """Return this worker's share of the next iteration's train examples; alone, all."""
        data = self.data
        return workers.share(
            batch_indices(data.seed, self.state.iteration, self.config.batch_size, len(data.train))
        )

    def take_step(self, loss: float, gradient: torch.Tensor) -> None:
        """Move the values by one step; end the run if the loss or gradient is not a number."""
        state = self.state
        if not np.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            state.stopped_because = "diverged"
            return
        learning_rate = self.config.learning_rate_at(state.iteration)
        state.values, state.adam = adam_step(state.values, gradient, state.adam, learning_rate)
        state.iteration += 1

    def is_start_unknown(self) -> bool:
        """Return whether the values before the first step must still be evaluated."""
        return self.config.eval_every is not None and not self.state.curve

    def is_evaluation_due(self) -> bool:
        """Return whether the iteration that was just taken must be evaluated."""
        if self.state.iteration >= self.config.max_iterations:
            return True
        every = self.config.eval_every
        return every is not None and self.state.iteration % every == 0

    def take_evaluation(self, loss: float, accuracy: float) -> None:
        """Record the evaluation of the present values; keep the best; stop at the target."""
        state = self.state
        if not np.isfinite(loss):
            state.stopped_because = "diverged"
            return
        point = (state.iteration, loss, accuracy)
        state.curve = (*state.curve, point)
        state.reached = self.config.is_target_met(loss, accuracy)
        if (
            state.reached
            or state.best_point is None
            or _is_better(self.data.metric, point, state.best_point)
        ):
            state.best, state.best_point = state.values, point
        if state.reached:
            state.stopped_because = "target"
        elif state.iteration >= self.config.max_iterations:
            state.stopped_because = "max_iterations"


def _is_better(metric: Metric, point: CurvePoint, best: CurvePoint) -> bool:
    """Return whether one evaluation is better by the task's metric, ties by the other."""
    if metric == "accuracy":
        return (point[2], -point[1]) > (best[2], -best[1])
    return (-point[1], point[2]) > (-best[1], best[2])
