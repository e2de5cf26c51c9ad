"""The servers of one machine: `dagster dev`, `mlflow server` and the warm workers."""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from maitre.processes.child import ChildProcess
from maitre.processes.environment import UP_ID, child_environment
from maitre.processes.restarting import RestartingService
from maitre.processes.service_error import ServiceError
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.home_lock import UpRecord, end_processes
from maitre.workers.pool.client import direct
from maitre.workers.pool.factory import most_workers
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.registry import WorkerRegistry
from maitre.workers.running_services import remove_services, write_services

_STOP_S = 2.0
"""How long servers and workers have to end before they are killed."""


@dataclass(frozen=True)
class LocalServices:
    """Both servers as child processes, each in a process group of its own, and the warm workers.

    A server that ends is started again. `stop` ends all that has the id of this `maitre up`.
    `written` are the services that other commands find in the data home.
    """

    dagster: RestartingService
    mlflow: RestartingService
    dagster_url: str
    mlflow_url: str
    log_folder: Path
    pool: LocalPool | None
    home: str
    written: Mapping[str, str]
    up: UpRecord

    @classmethod
    def start(
        cls,
        settings: Settings,
        dagster_home: Path,
        dagster_port: int,
        mlflow_port: int,
        up: UpRecord,
        workers: int = 0,
        keep: int | None = None,
        report: Callable[[str], None] = print,
    ) -> Self:
        """Start all of them on loopback addresses, with their logs in the data home.

        The scheduler keeps at least `keep` of the warm `workers`, by default all of them. Every
        process has the id of `up` in its environment. `report` gets a line when a server ends.
        """
        log_folder = Path(settings.home).resolve() / "logs"
        dagster_home = dagster_home.resolve()
        dagster_home.mkdir(parents=True, exist_ok=True)
        instance = Path("dagster.yaml")
        if instance.is_file() and not (dagster_home / instance.name).exists():
            shutil.copy(instance, dagster_home)
        mlflow_url = f"http://127.0.0.1:{mlflow_port}"
        dagster_url = f"http://127.0.0.1:{dagster_port}"
        settings = settings.model_copy(
            update={
                "mlflow_ui_url": mlflow_url,
                "warm_pool": "local" if workers else "off",
                "min_warm_workers": workers if keep is None else keep,
            }
        )
        # Without MLflow's job runners: seven processes of 240 MB each, which nothing here uses.
        # Its store is no argument: the URL may hold a password, and every process sees arguments.
        for_mlflow = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_BACKEND_STORE_URI": settings.mlflow_tracking_uri,
        }
        environment = {
            **for_mlflow,
            **child_environment(
                {**settings.environment(), "DAGSTER_HOME": str(dagster_home), UP_ID: up.id}
            ),
        }
        # The tables are created here, so that two processes do not both try to create them.
        TrackingStore(settings.mlflow_tracking_uri).client()
        pool = None
        if workers:
            # The scheduler may start more workers, up to the GPUs of the cluster file.
            most = max(workers, most_workers(settings))
            # Dagster takes more than a second to import.
            from maitre.workers.launch.training_slots import allow_trainings

            allow_trainings(dagster_home, most)
            pool = LocalPool.of(settings, most, environment)
            WorkerRegistry(settings.home).forget_failures()
            pool.grow(settings.base_model_name, workers, beside=0)
        mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port"]
        mlflow += [str(mlflow_port)]
        dagster = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
        dagster += ["-h", "127.0.0.1", "-p", str(dagster_port)]
        written = {
            "dagster_url": dagster_url,
            "mlflow_url": mlflow_url,
            "warm_pool": settings.warm_pool,
        }
        write_services(settings.home, written)

        def service(name: str, command: list[str]) -> RestartingService:
            log = log_folder / f"{name}.log"
            start = partial(ChildProcess.start, name, command, log=log, environment=environment)
            return RestartingService(start, report)

        return cls(
            dagster=service("dagster", dagster),
            mlflow=service("mlflow", mlflow),
            dagster_url=dagster_url,
            mlflow_url=mlflow_url,
            log_folder=log_folder,
            pool=pool,
            home=settings.home,
            written=written,
            up=up,
        )

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until both servers answer; raise `ServiceError` when one ends or the time is up."""
        give_up_at = time.monotonic() + timeout_s
        for name, url in (
            ("dagster", f"{self.dagster_url}/server_info"),
            ("mlflow", f"{self.mlflow_url}/health"),
        ):
            while not _is_answering(url):
                for service in (self.dagster, self.mlflow):
                    service.child.check_running()
                if time.monotonic() > give_up_at:
                    raise ServiceError(
                        f"{name} did not answer at {url} within {timeout_s:.0f} s; "
                        f"see {self.log_folder / name}.log"
                    )
                time.sleep(0.5)

    def wait(self, each_second: Callable[[], None] = lambda: None) -> None:
        """Wait for ever; start a server that has ended again.

        Raises:
            ServiceError: a server has ended too often.
        """
        while True:
            for service in (self.dagster, self.mlflow):
                service.check()
            each_second()
            time.sleep(1.0)

    def stop(self) -> None:
        """Ask both servers and the workers to end; kill what runs after `_STOP_S` seconds.

        A worker stops its run at the next step; another worker resumes it later.
        """
        remove_services(self.home, self.written)
        for service in (self.dagster, self.mlflow):
            service.child.signal_group(signal.SIGINT)
        end_processes(self.up.processes(), timeout_s=_STOP_S)
        for service in (self.dagster, self.mlflow):
            service.child.kill_after(0.1)
        if self.pool is not None:
            self.pool.forget_ended()


def _is_answering(url: str) -> bool:
    try:
        with direct().open(url, timeout=2) as answer:
            return 200 <= answer.status < 300
    except OSError:
        return False
