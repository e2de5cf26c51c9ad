"""What an op sees of the worker that it runs on: where to checkpoint, when to stop, whom to tell.

An op asks for `held_run()`. Outside a warm worker that is a run that is never asked to stop, has no
checkpoint and tells nobody, so that an op reads the same either way.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.tasks import Task
    from maitre.tuning.workers import Workers


@dataclass
class Progress:
    """How far a run is. `marks` are the wall-clock times (s since the epoch) of its first steps."""

    phase: str = "starting"
    iteration: int = 0
    iterations: int = 0
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note the time of something that happens for the first time."""
        self.marks.setdefault(name, time.time())


@dataclass(frozen=True)
class Told:
    """What the other workers of a run must know to take its steps: arguments of `tune`."""

    model: "BaseModel"
    task: "Task"
    init: "np.ndarray | None"
    config: "TuneConfig"
    seed: int


@dataclass(frozen=True)
class HeldRun:
    """A run as its op sees it. `lead` forms the group of a run that several workers hold."""

    progress: Progress
    stop: Event
    is_mine: Callable[[], None]
    checkpoint: Path | None = None
    on_checkpoint: Callable[[], None] = lambda: None
    lead: "Callable[[Told], AbstractContextManager[Workers]] | None" = None

    @contextmanager
    def together(self, told: Told) -> "Iterator[Workers]":
        """The workers that tune this run, this one the first; itself alone where it is."""
        if self.lead is None:
            from maitre.tuning.workers import ALONE

            yield ALONE
        else:
            with self.lead(told) as workers:
                yield workers

    def enter(self, phase: str, iterations: int = 0) -> None:
        """Tell that a phase begins (`lookup`, `tuning`, `registering`)."""
        self.progress.phase = phase
        self.progress.iterations = iterations or self.progress.iterations
        self.progress.mark(phase)

    def step(self, iteration: int) -> None:
        """Tell that an iteration is done; pass its checkpoint on when there is a new one."""
        self.progress.iteration = iteration
        if iteration > 0:
            self.progress.mark("first_step")
        self.on_checkpoint()

    def should_stop(self) -> bool:
        """Whether to stop before the next step. `check` then says why."""
        if not self.progress.marks.get("stepping"):
            self.progress.mark("stepping")
        return self.stop.is_set()

    def check(self) -> None:
        """Raise `PlacementLost` when the run is not this worker's (any more): ask before a commit.

        A run that was asked to stop has ended here too: its worker gives it up.
        """
        self.is_mine()


def _nobody() -> None:
    """The check of a run that no warm worker holds: it cannot be lost."""


_held: list[HeldRun] = []


def held_run() -> HeldRun:
    """The run that this process's worker holds."""
    return _held[-1] if _held else HeldRun(Progress(), Event(), _nobody)


@contextmanager
def holding(run: HeldRun) -> Iterator[None]:
    """Make `run` what `held_run` returns, for the duration."""
    _held.append(run)
    try:
        yield
    finally:
        _held.remove(run)
