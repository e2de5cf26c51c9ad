"""What a worker's process needs of Dagster: it executes runs, and lets go of what they hold."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import dagster as dg

from maitre.workers.launch.dagster_internals import (
    capture_interrupts,
    execute_run,
    free_slots,
    keep_own_sigterm,
    load_job,
    pop_captured_interrupt,
)


@dataclass(frozen=True)
class RunExecution:
    """Executes runs of Dagster's instance in this process, one at a time, on the main thread."""

    instance: dg.DagsterInstance

    @classmethod
    def open(cls) -> Self:
        """Open the instance of `DAGSTER_HOME`; this process keeps its own handler of SIGTERM."""
        keep_own_sigterm()
        return cls(dg.DagsterInstance.get())

    def load_job(self, module: str, job_name: str) -> None:
        """Load a code location's job ahead of its first run."""
        load_job(module, job_name)

    def execute(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        """Execute a run to its end; call `before_write` before everything that it writes."""
        execute_run(self.instance, run_id, resume=resume, before_write=before_write)

    def free_slots(self, run_id: str) -> None:
        """Give back the slots of Dagster's concurrency pools that the run's steps hold."""
        free_slots(self.instance, run_id)

    @contextmanager
    def captured_interrupts(self) -> Iterator[Callable[[], object]]:
        """Let SIGINT cancel the run instead of the process while the block lasts.

        Yields a function that drops an interrupt which came too late for its run.
        """
        with capture_interrupts():
            yield pop_captured_interrupt
