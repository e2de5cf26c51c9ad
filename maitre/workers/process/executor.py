"""Execution of runs in a worker's process: the base model and the job are loaded once."""

import ctypes
import gc
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from maitre.settings import Settings
from maitre.tuning.loaded_model import loaded_model
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.protocol import Claim
from maitre.workers.process.worker import Worker

if TYPE_CHECKING:
    from maitre.workers.launch.run_execution import RunExecution


class Executor:
    """Loads what runs need, and executes them. `load` makes the slow imports."""

    def __init__(self, module: str, job: str, settings: Settings) -> None:
        self._module = module
        self._job = job
        self._settings = settings
        self._runs: RunExecution

    def load(self) -> dict[str, float]:
        """Load everything; return the seconds of each stage."""
        load_s: dict[str, float] = {}
        with _measure_stage(load_s, "imports"):
            import mlflow.pyfunc  # noqa: F401

            import maitre.tuning.tune  # noqa: F401
            from maitre.workers.launch.run_execution import RunExecution
            from maitre.workers.process import group  # noqa: F401
        with _measure_stage(load_s, "instance"):
            self._runs = RunExecution.open()
        with _measure_stage(load_s, "job"):
            self._runs.load_job(self._module, self._job)
        with _measure_stage(load_s, "model"):
            loaded_model(self._settings.base_model)
        with _measure_stage(load_s, "warm-up"):
            location = importlib.import_module(self._module)
            if hasattr(location, "warm_up"):
                location.warm_up(self._settings)
        # What is loaded stays: the collection after each run need not go through it again.
        gc.collect()
        gc.freeze()
        return load_s

    def serve(self, worker: Worker) -> None:
        """Let the worker execute claims until it is drained; an interrupt cancels only its run."""
        with self._runs.captured_interrupts() as drop_interrupt:
            worker.serve(drop_interrupt=drop_interrupt)

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        """Execute a Dagster run to its end, as `Execute`."""
        try:
            self._runs.execute(run_id, resume=resume, before_write=before_write)
        finally:
            _return_free_memory()

    def release_slots(self, run_id: str) -> None:
        """Give back the slots of Dagster's pools that a run holds which is given up."""
        self._runs.free_slots(run_id)

    def help(self, claim: Claim, *, is_leaving: Callable[[], bool]) -> None:
        """Tune together with the worker that executes the claim's run, as `Help`."""
        from maitre.workers.process.group import follow

        settings = self._settings
        load = partial(loaded_model, settings.base_model)
        leases = LeaseStore(settings.request_queue_url)
        try:
            follow(claim, leases, load, settings.tasks, is_leaving)
        finally:
            _return_free_memory()


def _return_free_memory() -> None:
    """Free what a run has left in reference cycles; let the C library return free memory.

    A run allocates and frees arrays of many sizes. Without this call glibc keeps their pages.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def _measure_stage(load_s: dict[str, float], stage: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    load_s[stage] = time.monotonic() - started_s
