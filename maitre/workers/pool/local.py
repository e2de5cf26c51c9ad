"""The local pool: worker processes of this machine, registered in the data home."""

import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from maitre.processes.child import ChildProcess
from maitre.processes.environment import child_environment
from maitre.settings import Settings
from maitre.workers.pool.client import WorkerClient
from maitre.workers.pool.pool import PoolError, PoolWorker, with_views
from maitre.workers.pool.registry import RegisteredWorker, WorkerRegistry
from maitre.workers.pool.token import read_token

_ANSWER_S = 2.0
_AFTER_FAILURE_S = 30.0


@dataclass(frozen=True)
class LocalPool:
    """The worker processes of one data home; `expected` of them share the machine's cores.

    They hold only `base_model`, which the settings name. `environment` is the whole environment of
    a worker.
    """

    home: str
    base_model: str
    token: str
    expected: int
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(
        cls, settings: Settings, expected: int, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Return the pool of these settings; `expected` workers share the cores.

        The default `environment` has the inherited variables and the settings.
        """
        threads = max(1, (os.cpu_count() or 1) // max(1, expected))
        environment = environment or child_environment(settings.environment())
        return cls(
            settings.home,
            settings.base_model_name,
            read_token(settings),
            expected,
            {"OMP_NUM_THREADS": str(threads), **environment},
        )

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        """Return the worker processes that run; one that loads may not have an address yet."""
        listed = [
            PoolWorker(worker.name, worker.url, worker.base_model, _started_s(worker))
            for worker in WorkerRegistry(self.home).workers()
            if base_model in (None, worker.base_model)
        ]
        return with_views(listed, self.token, _ANSWER_S)

    def grow(self, base_model: str, count: int, beside: int) -> None:
        """Start worker processes, which outlive the process that starts them.

        Starts none for a while after a worker could not load the model; its log says why. Raises
        `PoolError` for a base model that the settings do not name.
        """
        if base_model != self.base_model:
            raise PoolError(
                f"cannot start a worker of {base_model}: the workers of this machine hold "
                f"{self.base_model}, the base_model of the settings"
            )
        since_s = time.time() - _AFTER_FAILURE_S
        if WorkerRegistry(self.home).failed_since(base_model, since_s):
            return
        registered = WorkerRegistry(self.home).workers()
        there = sum(worker.base_model == base_model for worker in registered)
        logs = Path(self.home) / "logs"
        for _ in range(beside + count - there):
            name = f"{base_model}-{secrets.token_hex(3)}"
            command = [sys.executable, "-m", "maitre.workers.process.server"]
            command += ["--name", name, "--base-model", base_model]
            log = logs / f"worker-{name}.log"
            process = ChildProcess.start(name, command, log=log, environment=self.environment)
            # Registered at once, so that no other process starts one for the same need.
            WorkerRegistry(self.home).add(name, "", base_model, process.pid)

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        """Send SIGTERM to the processes: they drain and end."""
        names = {worker.name for worker in workers}
        for worker in WorkerRegistry(self.home).workers():
            if worker.name in names:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        """Do nothing: a drained process ends by itself."""

    def forget_ended(self) -> None:
        """Remove the registrations of workers that have ended."""
        registry = WorkerRegistry(self.home)
        for worker in registry.workers():
            if not worker.is_alive():
                registry.remove(worker.name)

    def stop_all(self, timeout_s: float = 20.0) -> None:
        """End every worker of this home; kill those that do not end in time."""
        registry = WorkerRegistry(self.home)
        registered = registry.workers()
        self.shrink(self.workers())
        give_up_at_s = time.monotonic() + timeout_s
        for worker in registered:
            while worker.is_alive() and time.monotonic() < give_up_at_s:
                time.sleep(0.05)
            if worker.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            registry.remove(worker.name)

    def client(self, url: str) -> WorkerClient:
        """Return a client of the worker at `url`."""
        return WorkerClient(url, self.token, _ANSWER_S)


def _started_s(worker: RegisteredWorker) -> float:
    """Return when the process was started (wall clock, s)."""
    try:
        return os.stat(f"/proc/{worker.pid}").st_mtime
    except FileNotFoundError:
        return time.time()
