"""The servers of one machine: `dagster dev`, `mlflow server` and the warm workers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from maitre.processes.service_error import ServiceError
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.pool.client import direct
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.pool import most_workers
from maitre.workers.pool.registry import WorkerRegistry, read_token
from maitre.workers.running_services import write_services

TRAINING_POOL = "training"
"""Dagster's pool of the ops that train; every warm worker may hold one of its slots."""


@dataclass(frozen=True)
class LocalServices:
    """Both servers as child processes; each in a group of its own, so that nothing outlives it.

    The warm workers are processes of `pool`, which this stops too.
    """

    dagster: subprocess.Popen
    mlflow: subprocess.Popen
    dagster_url: str
    mlflow_url: str
    log_folder: Path
    pool: LocalPool | None
    written: Path

    @classmethod
    def start(
        cls,
        settings: Settings,
        dagster_port: int,
        mlflow_port: int,
        workers: int = 0,
        keep: int | None = None,
    ) -> Self:
        """Start all, bound to loopback, with their logs under the data home.

        Of the warm `workers` the scheduler never gives back `keep` (all of them, if not said).
        """
        log_folder = Path(settings.home).resolve() / "logs"
        log_folder.mkdir(parents=True, exist_ok=True)
        dagster_home = Path(os.environ.get("DAGSTER_HOME", f"{settings.home}/dagster")).resolve()
        dagster_home.mkdir(parents=True, exist_ok=True)
        instance = Path("dagster.yaml")
        if instance.is_file() and not (dagster_home / instance.name).exists():
            shutil.copy(instance, dagster_home)
        mlflow_url = f"http://127.0.0.1:{mlflow_port}"
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(dagster_home),
            "MAITRE_MLFLOW_UI_URL": mlflow_url,
            "MAITRE_WARM_POOL": "local" if workers else "off",
            "MAITRE_WARM_WORKERS": str(workers if keep is None else keep),
        }
        # MLflow's own job runners: seven processes of 240 MB each, which nothing here uses.
        environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        os.environ.update(environment)
        # Made here, so that two processes do not both try to create the tables.
        TrackingStore(settings.mlflow_tracking_uri).client()
        pool = None
        if workers:
            # The scheduler may start more than these, up to what the cluster file says.
            most = max(workers, most_workers(settings))
            _allow_trainings(dagster_home, most)
            pool = LocalPool(settings.home, settings.pool, read_token(settings.home), most)
            WorkerRegistry(settings.home).forget_failures()
            pool.grow(settings.pool, workers, beside=0)
        python = sys.executable
        mlflow = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port"]
        mlflow += [str(mlflow_port), "--backend-store-uri", settings.mlflow_tracking_uri]
        dagster = [python, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
        dagster += ["-p", str(dagster_port)]
        dagster_url = f"http://127.0.0.1:{dagster_port}"
        told = {"dagster_url": dagster_url, "mlflow_url": mlflow_url}
        written = write_services(
            settings.home, told | {"warm_pool": environment["MAITRE_WARM_POOL"]}
        )
        return cls(
            dagster=_spawn(dagster, log_folder / "dagster.log", environment),
            mlflow=_spawn(mlflow, log_folder / "mlflow.log", environment),
            dagster_url=dagster_url,
            mlflow_url=mlflow_url,
            log_folder=log_folder,
            pool=pool,
            written=written,
        )

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until both answer; `ServiceError` when one ends or the time is up."""
        give_up_at = time.monotonic() + timeout_s
        for name, url in (
            ("dagster", f"{self.dagster_url}/server_info"),
            ("mlflow", f"{self.mlflow_url}/health"),
        ):
            while not _answers(url):
                self._check_alive()
                if time.monotonic() > give_up_at:
                    raise ServiceError(
                        f"{name} did not answer at {url} within {timeout_s:.0f} s; "
                        f"see {self.log_folder / name}.log"
                    )
                time.sleep(0.5)

    def wait(self, each_second: Callable[[], None] = lambda: None) -> None:
        """Wait for ever, or until one of them ends, which is an error."""
        while True:
            self._check_alive()
            each_second()
            time.sleep(1.0)

    def stop(self) -> None:
        """Interrupt both, and kill what has not gone after 15 s; then drain the workers."""
        self.written.unlink(missing_ok=True)
        for process in (self.dagster, self.mlflow):
            _signal_group(process, signal.SIGINT)
        give_up_at = time.monotonic() + 15
        for process in (self.dagster, self.mlflow):
            try:
                process.wait(timeout=max(0.1, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
        if self.pool is not None:
            self.pool.stop_all()

    def _check_alive(self) -> None:
        for name, process in (("dagster", self.dagster), ("mlflow", self.mlflow)):
            if (code := process.poll()) is not None:
                raise ServiceError(
                    f"{name} ended with exit code {code}; see {self.log_folder / name}.log"
                )


def _allow_trainings(dagster_home: Path, count: int) -> None:
    """Let as many ops train at once as there may be warm workers."""
    from maitre.workers.launch.dagster_internals import DagsterInstance

    with DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.event_log_storage.set_concurrency_slots(TRAINING_POOL, count)


def _spawn(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _answers(url: str) -> bool:
    try:
        with direct().open(url, timeout=2) as answer:
            return 200 <= answer.status < 300
    except OSError:
        return False
