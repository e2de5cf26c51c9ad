"""What a worker's process executes runs with: the base model and the Dagster job, loaded once."""

import ctypes
import gc
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from maitre.settings import Settings
from maitre.tuning.loaded_model import loaded_model
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.protocol import Claim
from maitre.workers.process.worker import Worker


class Executor:
    """Loads what a run needs, and runs it. Heavy imports happen in `load`, timed by stage."""

    def __init__(self, module: str, job: str, settings: Settings) -> None:
        self._module = module
        self._job = job
        self._settings = settings
        self._instance: Any = None

    def load(self) -> dict[str, float]:
        """Seconds of each stage."""
        load_s: dict[str, float] = {}
        with _timed(load_s, "imports"):
            import mlflow.pyfunc  # noqa: F401

            import maitre.tuning.tune  # noqa: F401
            from maitre.workers.launch import dagster_internals
            from maitre.workers.process import group  # noqa: F401

            dagster_internals.keep_own_sigterm()
        with _timed(load_s, "instance"):
            self._instance = dagster_internals.DagsterInstance.get()
        with _timed(load_s, "job"):
            dagster_internals.load_job(self._module, self._job)
        with _timed(load_s, "model"):
            loaded_model(self._settings.base_model)
        with _timed(load_s, "warm-up"):
            location = importlib.import_module(self._module)
            if hasattr(location, "warm_up"):
                location.warm_up(self._settings)
        # What is loaded stays: the collection after each run need not go through it again.
        gc.collect()
        gc.freeze()
        return load_s

    def serve(self, worker: Worker) -> None:
        """Let the worker run claims, with interrupts captured rather than deadly."""
        from maitre.workers.launch.dagster_internals import (
            capture_interrupts,
            pop_captured_interrupt,
        )

        with capture_interrupts():
            worker.serve(drop_interrupt=pop_captured_interrupt)

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        """Run a Dagster run to its end, as `Execute`."""
        from maitre.workers.launch.dagster_internals import execute_run

        try:
            execute_run(self._instance, run_id, resume=resume, before_write=before_write)
        finally:
            _give_memory_back()

    def release_slots(self, run_id: str) -> None:
        """Give back what a run that is given up holds of Dagster's."""
        from maitre.workers.launch.dagster_internals import free_slots

        free_slots(self._instance, run_id)

    def help(self, claim: Claim, *, is_leaving: Callable[[], bool]) -> None:
        """Tune along with the worker that executes the claim's run."""
        from maitre.workers.process.group import follow

        settings = self._settings
        load = partial(loaded_model, settings.base_model)
        leases = LeaseStore(settings.request_queue_url)
        try:
            follow(claim, leases, load, settings.tasks, is_leaving)
        finally:
            _give_memory_back()


def _give_memory_back() -> None:
    """Free what a run has left in cycles, and let the C library return what is free.

    A run allocates and frees arrays of many sizes; glibc keeps their pages otherwise.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def _timed(load_s: dict[str, float], stage: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    load_s[stage] = time.monotonic() - started_s
