"""The run as its op sees it: the checkpoint, the lease, and whether to stop.

An op calls `current_run()`. Outside of a warm worker this returns a run without checkpoint and
lease that never stops: the same op runs in both places.
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
    """How far a run is. `marks` are the wall-clock times (s since the epoch) of first events."""

    phase: str = "starting"
    iteration: int = 0
    iterations: int = 0
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Record the time of an event when it happens for the first time."""
        self.marks.setdefault(name, time.time())


@dataclass(frozen=True)
class TuningInputs:
    """The arguments of `tune` that the other workers of a run need to take the same steps."""

    model: "BaseModel"
    task: "Task"
    init: "np.ndarray | None"
    config: "TuneConfig"
    seed: int
    tenant: str | None = None


@dataclass(frozen=True)
class RunContext:
    """A run as its op sees it. `lead` forms the group when several workers hold the run."""

    progress: Progress
    stop: Event
    check_lease: Callable[[], None]
    """Raise `LeaseLost` when this worker no longer holds the run; call it before a commit.

    After a request to stop it raises too: the worker releases the run.
    """
    checkpoint: Path | None = None
    on_checkpoint: Callable[[], None] = lambda: None
    lead: "Callable[[TuningInputs], AbstractContextManager[Workers]] | None" = None

    @contextmanager
    def form_group(self, inputs: TuningInputs) -> "Iterator[Workers]":
        """Yield the workers that tune this run, this one as the first; or this one alone."""
        if self.lead is None:
            from maitre.tuning.workers import ALONE

            yield ALONE
        else:
            with self.lead(inputs) as workers:
                yield workers

    def enter(self, phase: str, iterations: int = 0) -> None:
        """Report that a phase begins (`lookup`, `tuning`, `registering`)."""
        self.progress.phase = phase
        self.progress.iterations = iterations or self.progress.iterations
        self.progress.mark(phase)

    def step(self, iteration: int) -> None:
        """Report that an iteration is done; copy its checkpoint when there is a new one."""
        self.progress.iteration = iteration
        if iteration > 0:
            self.progress.mark("first_step")
        self.on_checkpoint()

    def should_stop(self) -> bool:
        """Return whether to stop before the next step; `check_lease` then raises the reason."""
        self.progress.mark("stepping")
        return self.stop.is_set()


def _no_lease() -> None:
    """Accept every commit: a run outside a warm worker cannot be given to another worker."""


_contexts: list[RunContext] = []


def current_run() -> RunContext:
    """Return the run that this process executes, or one without worker, lease and checkpoint."""
    return _contexts[-1] if _contexts else RunContext(Progress(), Event(), _no_lease)


@contextmanager
def use_context(run: RunContext) -> Iterator[None]:
    """Let `current_run` return `run` while the block lasts."""
    _contexts.append(run)
    try:
        yield
    finally:
        _contexts.remove(run)
