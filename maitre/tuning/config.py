"""The inputs of a tuning run, its reports on the way and its result."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from maitre.errors import UserError

Position = Literal["suffix", "prefix"]
StopReason = Literal["target", "max_iterations", "cancelled", "diverged"]
CurvePoint = tuple[int, float, float]


class TuningInputError(UserError):
    """Something given to the tuner that it cannot use; the message names what and where."""


@dataclass(frozen=True)
class RunConfig:
    """What soft prompts and LoRA adapters have in common.

    Every `eval_every` iterations the whole eval split is evaluated (`None`: only the last
    iteration is); the run stops at the first evaluation that meets every target that is set.
    The learning rate rises linearly over the first `warm_up_iterations`: Adam's first steps have
    full length even where the gradient is small, and would ruin a good start.

    `eval_rows` is the number of eval examples, from the first, that are evaluated; `None`: all.
    """

    learning_rate: float = 0.03
    warm_up_iterations: int = 0
    batch_size: int = 16
    max_iterations: int = 60
    eval_every: int | None = 2
    target_loss: float | None = None
    target_accuracy: float | None = None
    eval_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_iterations"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _check(0 < self.learning_rate < np.inf, "learning_rate", self.learning_rate, "positive")
        at_least_0 = self.warm_up_iterations >= 0
        _check(at_least_0, "warm_up_iterations", self.warm_up_iterations, "at least 0")
        for name in ("eval_every", "eval_rows"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, value, "at least 1, or None")
        if self.target_accuracy is not None:
            in_range = 0 <= self.target_accuracy <= 1
            _check(in_range, "target_accuracy", self.target_accuracy, "between 0 and 1")
        if self.target_loss is not None:
            _check(self.target_loss >= 0, "target_loss", self.target_loss, "at least 0")

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        return self.learning_rate * min(1.0, (iteration + 1) / (self.warm_up_iterations + 1))

    def is_target_met(self, eval_loss: float, eval_accuracy: float) -> bool:
        """Return whether an evaluation meets every target that is set, if there is one."""
        if self.target_loss is None and self.target_accuracy is None:
            return False
        loss_met = self.target_loss is None or eval_loss <= self.target_loss
        accuracy_met = self.target_accuracy is None or eval_accuracy >= self.target_accuracy
        return loss_met and accuracy_met


@dataclass(frozen=True)
class TuneConfig(RunConfig):
    """How soft prompts are tuned.

    `position` is where the virtual tokens stand: `suffix` between input and answer (the frozen
    keys and values of the input are computed once, so a step costs only the virtual tokens and
    the answer), `prefix` before the input (the usual layout, which peft and vLLM know).

    `cache_limit_bytes` bounds the kept keys and values of train inputs, per task.
    """

    virtual_tokens: int = 4
    position: Position = "suffix"
    cache_limit_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.virtual_tokens >= 1, "virtual_tokens", self.virtual_tokens, "at least 1")
        _check(self.position in ("suffix", "prefix"), "position", self.position, "suffix or prefix")


@dataclass(frozen=True)
class LoraConfig(RunConfig):
    """How a LoRA adapter is tuned.

    `target_modules` are names of linear layers, or the one name `all-linear`; `None` is peft's
    default for the architecture. Updates are scaled by `alpha / rank`. `dropout` is the share of a
    layer's inputs that the adapter does not see in a step.
    """

    learning_rate: float = 1e-3
    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.rank >= 1, "rank", self.rank, "at least 1")
        _check(0 < self.alpha < np.inf, "alpha", self.alpha, "positive")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        if self.target_modules is not None:
            is_named = bool(self.target_modules) and all(name for name in self.target_modules)
            names = ",".join(self.target_modules)
            _check(is_named, "target_modules", repr(names), "names of layers, none of them empty")


@dataclass(frozen=True)
class Evaluation:
    """A prompt's result on the eval split.

    `loss` is the mean over examples of the mean negative log-likelihood (nats) of a completion's
    tokens; `accuracy` the share of examples whose completion greedy decoding gives exactly;
    `majority_share` what always answering the commonest completion would score; `n` the examples.
    """

    loss: float
    accuracy: float
    majority_share: float
    n: int


@dataclass(frozen=True)
class IterationReport:
    """One iteration of one task: losses are means over rows; eval figures where it evaluated."""

    task: str
    iteration: int
    train_loss: float | None
    eval_loss: float | None
    eval_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class TuneResult:
    """A tuned soft prompt and how the run went.

    `prompt` is float32 `[virtual_tokens, hidden]`: of the evaluation that met the target, else the
    best evaluated one; `eval_loss` and `eval_accuracy` are that prompt's. `iterations` counts
    optimiser steps taken. `seconds` is wall time; for tasks in a shared batch, that of all tasks.
    `curve` holds `(iteration, eval_loss, eval_accuracy)` of every evaluation.
    """

    task: str
    prompt: np.ndarray
    reached: bool
    iterations: int
    eval_loss: float
    eval_accuracy: float
    seconds: float
    curve: tuple[CurvePoint, ...]
    stopped_because: StopReason


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise TuningInputError(f"{name} must be {wanted}, not {value}")
