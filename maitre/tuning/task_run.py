"""One task on its way through tuning: its prompt, its optimiser and its best evaluation so far."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maitre.tuning.adam import AdamState, adam_step
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import CurvePoint, StopReason, TuneConfig, TuneResult
from maitre.tuning.encoding import EncodedTask, encode
from maitre.tuning.evaluate import eval_batches, evaluate_batches
from maitre.tuning.rows import InputCache, RowBatch
from maitre.tuning.soft_prompt import checked_prompt, random_init
from maitre.tuning.tasks import Metric, Task


def batch_indices(seed: int, iteration: int, batch_size: int, examples: int) -> list[int]:
    """The train examples of one iteration (from 0): epochs of seeded permutations, end to end.

    A function of its arguments alone, so a resumed run sees the very batches it would have seen.
    """
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    epochs = {place // examples for place in places}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(examples) for epoch in epochs}
    return [int(orders[place // examples][place % examples]) for place in places]


@dataclass
class RunState:
    """Everything of a run that changes, and that a resumed run needs.

    `prompt` and `best` are float32 `[virtual_tokens, hidden]`; `best_point` is the evaluation of
    `best`; `seconds` is the wall time that earlier sittings took.
    """

    prompt: torch.Tensor
    adam: AdamState
    best: torch.Tensor
    best_point: CurvePoint | None = None
    curve: tuple[CurvePoint, ...] = ()
    iteration: int = 0
    reached: bool = False
    stopped_because: StopReason | None = None
    seconds: float = 0.0

    @classmethod
    def fresh(cls, prompt: torch.Tensor) -> "RunState":
        """The state before the first iteration."""
        return cls(prompt=prompt, adam=AdamState.fresh(prompt), best=prompt)


@dataclass(frozen=True)
class TaskData:
    """A task's examples as a run of one seed passes them through the model.

    Runs of one task and seed may share it: a row's cached inputs do not depend on who asks first.
    """

    name: str
    metric: Metric
    seed: int
    train: InputCache
    eval: Sequence[RowBatch]

    @classmethod
    def read(
        cls,
        model: BaseModel,
        task: Task,
        config: TuneConfig,
        seed: int,
        like: "TaskData | None" = None,
    ) -> "TaskData":
        """Tokenise the task; `like` is the same task's data of another seed, whose eval serves.

        Raises `TuningInputError` for what cannot be tuned.
        """
        encoded = encode(model, task, config.virtual_tokens, eval=() if like else None)
        count = len(encoded.train)
        # The first epoch's batches: a row's inputs are always computed beside the same others, so
        # that a resumed run works with the very same numbers.
        order = np.random.default_rng([seed, 0]).permutation(count).tolist()
        size = config.batch_size
        groups = [order[start : start + size] for start in range(0, count, size)]
        train = InputCache(model, encoded.train, config.position, config.cache_limit_bytes, groups)
        evaluation = like.eval if like else _eval_of(model, encoded, config)
        return cls(name=task.name, metric=task.metric, seed=seed, train=train, eval=evaluation)


def _eval_of(model: BaseModel, encoded: EncodedTask, config: TuneConfig) -> Sequence[RowBatch]:
    return eval_batches(model, encoded, config.position, config.eval_rows)


@dataclass
class TaskRun:
    """A task's data and the state of its run."""

    data: TaskData
    config: TuneConfig
    state: RunState

    @classmethod
    def start(
        cls, model: BaseModel, data: TaskData, init: np.ndarray | None, config: TuneConfig
    ) -> "TaskRun":
        """Lay out the start: `init`, or the cold start of the data's seed.

        Raises `TuningInputError` for a start that does not fit.
        """
        if init is None:
            init = random_init(model, config.virtual_tokens, data.seed)
        what = f"start for task {data.name!r}"
        values = checked_prompt(model, init, config.virtual_tokens, what).copy()
        state = RunState.fresh(torch.from_numpy(values).to(model.device))
        return cls(data=data, config=config, state=state)

    @property
    def is_active(self) -> bool:
        """Whether the run has not stopped."""
        return self.state.stopped_because is None

    def batch(self) -> RowBatch:
        """The train rows of the coming iteration."""
        data = self.data
        indices = batch_indices(
            data.seed, self.state.iteration, self.config.batch_size, len(data.train)
        )
        return data.train.batch(indices)

    def take_step(self, loss: float, gradient: torch.Tensor) -> None:
        """Move the prompt, unless loss or gradient is no number: then the run ends as it was."""
        state = self.state
        if not np.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            state.stopped_because = "diverged"
            return
        learning_rate = self.config.learning_rate_at(state.iteration)
        state.prompt, state.adam = adam_step(state.prompt, gradient, state.adam, learning_rate)
        state.iteration += 1

    def is_evaluation_due(self) -> bool:
        """Whether the iteration that was just taken is to be evaluated."""
        if self.state.iteration >= self.config.max_iterations:
            return True
        every = self.config.eval_every
        return every is not None and self.state.iteration % every == 0

    def evaluate(self, model: BaseModel) -> None:
        """Evaluate the prompt as it stands; keep it when it is the best; stop when it is enough."""
        state = self.state
        loss, accuracy = evaluate_batches(model, state.prompt, self.data.eval, self.config.position)
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
            state.best, state.best_point = state.prompt, point
        if state.reached:
            state.stopped_because = "target"
        elif state.iteration >= self.config.max_iterations:
            state.stopped_because = "max_iterations"

    def result(self, seconds: float) -> TuneResult:
        """What the run comes to; `seconds` is the wall time of this sitting."""
        _, loss, accuracy = self.state.best_point or (0, float("nan"), 0.0)
        return TuneResult(
            task=self.data.name,
            prompt=self.state.best.cpu().numpy(),
            reached=self.state.reached,
            iterations=self.state.iteration,
            eval_loss=loss,
            eval_accuracy=accuracy,
            seconds=self.state.seconds + seconds,
            curve=self.state.curve,
            stopped_because=self.state.stopped_because or "cancelled",
        )


def _is_better(metric: Metric, point: CurvePoint, best: CurvePoint) -> bool:
    """By the task's own metric, ties by the other."""
    if metric == "accuracy":
        return (point[2], -point[1]) > (best[2], -best[1])
    return (-point[1], point[2]) > (-best[1], best[2])
