"""The live system for a benchmark: `maitre up` on a data home of its own, and what it recorded."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import yaml

from maitre.processes.ports import free_port
from maitre.requests.request import TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.registry import WorkerRegistry

Found = TypeVar("Found")
SHORT_STEPS = 1
TRAIN_ROWS = 64
EVAL_ROWS = 32


@dataclass
class Services:
    """`maitre up`, running."""

    settings: Settings
    environment: Mapping[str, str]
    pool: LocalPool

    @property
    def store(self) -> RequestStore:
        """The request queue."""
        return RequestStore(self.settings.request_queue_url)

    def idle(self, count: int, timeout_s: float = 180.0) -> list[PoolWorker]:
        """Return the workers once `count` of them are idle."""

        def look() -> list[PoolWorker]:
            idle = [worker for worker in self.pool.workers() if worker.is_idle]
            return idle if len(idle) >= count else []

        return until(look, timeout_s)

    def submit_by_command(self, task: str, deadline: str = "10m", **options: Any) -> TuningRequest:
        """Submit a request by the command line, as a person does."""
        command = [sys.executable, "-m", "maitre.cli", "requests", "submit", task, "--json"]
        command += ["--deadline", deadline, "--no-lookup"]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        answer = subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(self.environment)
        )
        return self.store.get(json.loads(answer.stdout)["request_id"])

    def submit_row(
        self,
        task: str,
        deadline_s: float = 600.0,
        steps: int = SHORT_STEPS,
        taken: bool = False,
    ) -> TuningRequest:
        """Add only the row: the sensor alone finds it, unless it is `taken` already."""
        now = datetime.now(UTC)
        request = self.store.submit(
            task,
            deadline_at=now + timedelta(seconds=deadline_s),
            now=now,
            base_model=self.settings.base_model_name,
            lookup=False,
            max_iterations=steps,
            iterations_cold=float(steps),
            iterations_bank=float(steps),
        )
        if taken:
            self.store.take(request.request_id, owner="benchmark", now=now, hold_s=600.0)
        return request

    def ended(self, request_id: str, timeout_s: float = 300.0) -> TuningRequest:
        """Return the request once it has ended."""
        return until(
            lambda: r if (r := self.store.get(request_id)).state.is_final else None, timeout_s
        )

    def marks(self, run_id: str, timeout_s: float = 120.0) -> dict[str, float]:
        """Return when the run's first steps were, by the worker that finished it (clock, s)."""

        def look() -> dict[str, float] | None:
            for worker in self.pool.workers():
                last = worker.view.last if worker.view else None
                if last is not None and last.run_id == run_id and last.rank == 0:
                    return last.marks
            return None

        return until(look, timeout_s)

    def run_of(self, request_id: str, timeout_s: float = 60.0) -> str:
        """Return the id of the request's run once there is one."""
        with self.instance() as instance:

            def look() -> str | None:
                filters = dg.RunsFilter(tags={"maitre/request": request_id})
                runs = instance.get_runs(filters, limit=1)
                return runs[0].run_id if runs else None

            return until(look, timeout_s)

    def holder(self, run_id: str, after_iteration: int = 0) -> PoolWorker | None:
        """Return the worker that has the run and is past an iteration of it."""
        for worker in self.pool.workers():
            claim = worker.view.claim if worker.view else None
            if claim and claim.run_id == run_id and claim.iteration > after_iteration:
                return worker
        return None

    def kill(self, name: str) -> None:
        """Kill a worker with -9."""
        for worker in WorkerRegistry(self.settings.home).workers():
            if worker.name == name:
                os.kill(worker.pid, signal.SIGKILL)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Return the Dagster instance of the services."""
        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            yield instance


def small_tasks(tasks: Path, into: Path, eval_rows: int = EVAL_ROWS, count: int = 8) -> Path:
    """Return copies of some tasks with few rows, for figures about many jobs."""
    for header in sorted(tasks.glob("*/task.yaml"))[:count]:
        folder = into / header.parent.name
        folder.mkdir(parents=True)
        shutil.copy(header, folder)
        for split, rows in (("train", TRAIN_ROWS), ("eval", eval_rows)):
            lines = (header.parent / f"{split}.jsonl").read_text().splitlines(keepends=True)
            (folder / f"{split}.jsonl").write_text("".join(lines[:rows]))
    return into


def cluster_for(model: Path, into: Path) -> Path:
    """Write a cluster file: the speeds of `examples/workers.yaml` for another model."""
    described = yaml.safe_load(Path("examples/workers.yaml").read_text())
    [speeds] = described["models"].values()
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(yaml.safe_dump(described | {"models": {model.name: speeds}}))
    return into


def data_home_environment(folder: Path, model: Path, tasks: Path) -> dict[str, str]:
    """Return the settings of a data home, a queue and a tracking store of its own in `folder`."""
    return {
        "DAGSTER_HOME": str(folder / "dagster"),
        "MAITRE_HOME": str(folder / "home"),
        "MAITRE_BASE_MODEL": str(model),
        "MAITRE_TASKS": str(tasks),
        "MAITRE_REQUEST_QUEUE_URL": f"sqlite:///{folder}/home/requests.db",
        "MAITRE_MLFLOW_TRACKING_URI": f"sqlite:///{folder}/home/mlflow/mlflow.db",
    }


@contextmanager
def live_services(
    folder: Path,
    model: Path,
    tasks: Path,
    workers: int,
    keep: int | None = None,
    **more: str,
) -> Iterator[Services]:
    """Start `maitre up` with that many warm workers, in an empty data home."""
    environment = {**os.environ, **data_home_environment(folder, model, tasks), **more}
    settings = Settings.read(environment=environment)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "maitre.cli", "up", "--workers", str(workers)]
    command += [] if keep is None else ["--keep", str(keep)]
    command += ["--dagster-port", str(free_port()), "--mlflow-port", str(free_port())]
    with (folder / "up.log").open("ab") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    pool = LocalPool.of(settings, max(1, workers), environment)
    try:
        until(lambda: (folder / "home" / "services.json").exists(), 60.0)
        until(lambda: b"Logs" in (folder / "up.log").read_bytes(), 120.0)
        yield Services(settings, environment, pool)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=60)
        pool.stop_all(timeout_s=5.0)


def until(look: Callable[[], Found | None], timeout_s: float) -> Found:
    """Return what `look` returns once it is true; raise `TimeoutError` otherwise."""
    give_up_at_s = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > give_up_at_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain")
        time.sleep(0.05)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile, largest and count, in s."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        "median_s": round(statistics.median(ordered), 3),
        "p95_s": round(p95, 3),
        "max_s": round(ordered[-1], 3),
        "n": len(ordered),
    }
