"""Real workers on tiny inputs: their environment, and runs for them without a webserver."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest
import yaml

from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.launch.run_tags import BASE_MODEL_TAG
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.registry import WorkerRegistry
from tests.tiny_inputs import write_model, write_tasks

Found = TypeVar("Found")
INSTANCE = {
    "telemetry": {"enabled": False},
    "run_launcher": {
        "module": "maitre.workers.launch.launcher",
        "class": "WarmPoolRunLauncher",
    },
    "run_coordinator": {
        "module": "maitre.workers.launch.coordinator",
        "class": "WarmPoolRunCoordinator",
        "config": {"max_user_code_failure_retries": 10, "user_code_failure_retry_delay": 1},
    },
    "run_monitoring": {"enabled": True, "max_resume_run_attempts": 100},
}


def until(look: Callable[[], Found], timeout_s: float = 60.0) -> Found:
    """What `look` returns once that is true."""
    give_up_at_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < give_up_at_s, "waited in vain"
        time.sleep(0.02)
    return found


@dataclass
class Live:
    """A Dagster instance and a pool of worker processes."""

    settings: Settings
    instance: dg.DagsterInstance
    pool: LocalPool

    @property
    def leases(self) -> LeaseStore:
        return LeaseStore(self.settings.request_queue_url)

    def worker(self, name: str) -> PoolWorker:
        return next(worker for worker in self.pool.workers() if worker.name == name)

    def pid(self, name: str) -> int:
        return next(w.pid for w in WorkerRegistry(self.settings.home).workers() if w.name == name)

    def start_workers(self, count: int) -> list[str]:
        """Make it `count` idle workers."""
        self.pool.grow(self.settings.base_model_name, count, beside=0)
        idle = until(
            lambda: (
                (w := [w for w in self.pool.workers() if w.is_idle])
                if w_ready(self, count)
                else None
            ),
            # Two that load at once on a core that others use, too, take a minute.
            180.0,
        )
        return [worker.name for worker in idle]

    def create_run(
        self, task: str = "first", tags: Mapping[str, str] | None = None, **config: Any
    ) -> str:
        """A run of the job `tune`, not launched."""
        from dagster._core.definitions.reconstruct import (
            ReconstructableJob,
            ReconstructableRepository,
        )

        from pipelines import tuning

        repository = ReconstructableRepository.for_module("pipelines.tuning", "defs")
        origin = ReconstructableJob(repository, "tune").get_python_origin()
        self.instance.add_dynamic_partitions("tasks", [task])
        run = self.instance.create_run_for_job(
            tuning.defs().resolve_job_def("tune"),
            run_config={"ops": {"tuned_prompts": {"config": SHORT | config}}},
            tags={
                BASE_MODEL_TAG: self.settings.base_model_name,
                "dagster/partition": task,
                **(tags or {}),
            },
            job_code_origin=origin,
        )
        return run.run_id

    def launch(
        self, task: str = "first", tags: Mapping[str, str] | None = None, **config: Any
    ) -> str:
        run_id = self.create_run(task, tags, **config)
        self.instance.launch_run(run_id, None)
        return run_id

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def tuning_on(self, run_id: str, after_iteration: int = 0) -> str:
        """The worker that tunes the run, once it is past an iteration."""
        return until(
            lambda: next(
                (
                    w.name
                    for w in self.pool.workers()
                    if w.view
                    and w.view.claim
                    and w.view.claim.run_id == run_id
                    and w.view.claim.iteration > after_iteration
                ),
                None,
            )
        )

    def ended(self, run_id: str) -> dg.DagsterRunStatus:
        """Its status, once it has ended and its worker is free again."""

        def over() -> bool:
            holds = [w.view.claim.run_id for w in self.pool.workers() if w.view and w.view.claim]
            run = self.instance.get_run_by_id(run_id)
            return bool(run and run.is_finished and run_id not in holds)

        until(over)
        return self.status(run_id)


def w_ready(live: Live, count: int) -> bool:
    return sum(worker.is_idle for worker in live.pool.workers()) >= count


SHORT = {
    "lookup": False, "max_iterations": 4, "virtual_tokens": 2, "batch_size": 4,
}  # fmt: skip


@contextmanager
def live_pool(folder: Path) -> Iterator[Live]:
    """A data home with tiny inputs; the environment names it while the block lasts."""
    settings = Settings(
        home=str(folder / "home"),
        base_model=str(write_model(folder / "tiny-model")),
        tasks=str(write_tasks(folder / "tasks", ("first", "second", "third"))),
        request_queue_url=f"sqlite:///{folder}/home/requests.db",
        mlflow_tracking_uri=f"sqlite:///{folder}/home/mlflow/mlflow.db",
        warm_pool="local",
    )
    dagster_home = folder / "dagster"
    dagster_home.mkdir()
    (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(INSTANCE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(dagster_home))
        for name, value in settings.environment().items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        # Made here, so that two workers do not both try to create the tables.
        TrackingStore(settings.mlflow_tracking_uri).client()
        pool = LocalPool.of(settings, expected=2)
        try:
            with dg.DagsterInstance.get() as instance:
                yield Live(settings, instance, pool)
        finally:
            pool.stop_all(timeout_s=5.0)
