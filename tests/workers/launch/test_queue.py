"""Warm runs in Dagster's own queue, emptied by Dagster's own dequeuer."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from maitre.settings import Settings
from maitre.workers.launch.coordinator import WarmPoolRunCoordinator
from maitre.workers.launch.dagster_internals import (
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    RunLauncher,
    SubmitRunContext,
    report_enqueued,
)
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.protocol import WorkerState, WorkerView
from tests.workers.launch.test_lost_runs import OF_TUNING


class Ordinary(RunLauncher[Any]):
    """Starts everything."""

    def launch_run(self, context: LaunchRunContext) -> None:
        self._instance.report_engine_event("started", context.dagster_run)

    def terminate(self, run_id: str) -> bool:
        return False


class Queue:
    """An instance with a queue, one worker, and a clock."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance, self.now_s = instance, 1e9
        self.worker: WorkerState | None = "busy"
        self.leases = LeaseStore(settings.request_queue_url)
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        launcher = instance.run_launcher
        assert isinstance(launcher, WarmPoolRunLauncher)
        launcher._given_settings = settings
        launcher._ordinary_launcher = Ordinary()
        launcher._ordinary_launcher.register_instance(instance)

    def pool(self) -> SimpleNamespace:
        workers = []
        if self.worker is not None:
            view = WorkerView("w0", "tiny", self.worker, 0.0, 0.0)
            workers = [PoolWorker("w0", "http://127.0.0.1:1", "tiny", 0.0, view)]
        client = SimpleNamespace(claim=self.claim)
        return SimpleNamespace(workers=lambda model: workers, client=lambda url: client)

    def claim(self, claim: object) -> None:
        """As a worker does: busy from then on."""
        self.worker = "busy"

    def add(self, **tags: str) -> dg.DagsterRun:
        run = self.instance.create_run_for_job(nothing, tags=tags, remote_job_origin=OF_TUNING)
        return report_enqueued(self.instance, run)

    def second(self) -> None:
        """What Dagster's daemon does each second."""
        context: Any = SimpleNamespace(instance=self.instance, create_request_context=lambda: None)
        list(self.daemon.run_iteration(context, fixed_iteration_time=self.now_s))
        self.now_s += 1.0

    def tries(self, run: dg.DagsterRun) -> int:
        starting = dg.DagsterEventType.PIPELINE_STARTING
        return len(self.instance.all_logs(run.run_id, of_type=starting))

    def status(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        now = self.instance.get_run_by_id(run.run_id)
        assert now is not None
        return now.status


@dg.job
def nothing() -> None: ...


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    overrides = {
        "run_launcher": {
            "module": "maitre.workers.launch.launcher",
            "class": "WarmPoolRunLauncher",
        },
        "run_coordinator": {
            "module": "maitre.workers.launch.coordinator",
            "class": "WarmPoolRunCoordinator",
            "config": {"max_user_code_failure_retries": 100, "user_code_failure_retry_delay": 1},
        },
    }
    settings = Settings(request_queue_url=f"sqlite:///{tmp_path}/requests.db", warm_pool="local")
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        made = Queue(instance, settings)
        monkeypatch.setattr("maitre.workers.launch.launcher.pool_of", lambda _: made.pool())
        yield made


def test_a_run_that_waits_for_a_worker_blocks_no_other(queue: Queue) -> None:
    waiting = [queue.add(**{"maitre/base-model": "tiny"}) for _ in range(2)]
    others = [queue.add() for _ in range(3)]
    queue.second()
    queue.second()
    queue.second()
    assert {queue.status(run) for run in others} == {dg.DagsterRunStatus.STARTING}
    assert {queue.status(run) for run in waiting} == {dg.DagsterRunStatus.QUEUED}
    # Tried once, they are left alone until a worker is idle.
    tries = [queue.tries(run) for run in waiting]
    for _ in range(5):
        queue.second()
    assert [queue.tries(run) for run in waiting] == tries
    assert sum(tries) <= 2
    # They are no less in a hurry for it: whoever came first gets the worker.
    queue.worker = "idle"
    queue.second()
    queue.second()
    assert queue.status(waiting[0]) is dg.DagsterRunStatus.STARTING
    assert queue.status(waiting[1]) is dg.DagsterRunStatus.QUEUED
    placed = queue.leases.current(waiting[0].run_id)
    assert placed is not None
    assert placed.worker == "w0"


def test_a_run_starts_cold_when_the_worker_that_it_waits_for_is_gone(queue: Queue) -> None:
    run = queue.add(**{"maitre/base-model": "tiny"})
    for _ in range(3):
        queue.second()
    assert queue.status(run) is dg.DagsterRunStatus.QUEUED
    queue.worker = None
    queue.second()
    assert queue.status(run) is dg.DagsterRunStatus.STARTING
    assert queue.leases.current(run.run_id) is None


def test_a_run_that_was_cancelled_while_it_was_refused_is_not_queued(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue.instance.create_run_for_job(
        nothing, tags={"maitre/workers": "w0"}, remote_job_origin=OF_TUNING
    )

    def refuse(context: LaunchRunContext) -> None:
        queue.instance.report_run_canceled(context.dagster_run)
        raise DagsterUserCodeUnreachableError("busy")

    monkeypatch.setattr(queue.instance.run_launcher, "launch_run", refuse)
    coordinator = queue.instance.run_coordinator
    assert isinstance(coordinator, WarmPoolRunCoordinator)
    answer = coordinator.submit_run(SubmitRunContext(run, None))
    assert answer.status is queue.status(run) is dg.DagsterRunStatus.CANCELED
