"""Which runs without a worker the scheduler places again, and which it forgets."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from maitre.settings import Settings
from maitre.workers.launch.dagster_internals import execute_run
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.lost_runs import MOST_TAKEN, runs_to_resume
from maitre.workers.leases import (
    PREEMPTED,
    LeaseLost,
    LeaseState,
    LeaseStore,
    RunLease,
)
from maitre.workers.pool.client import WorkerClient

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OF_TUNING = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("pipelines.tuning"), "__repository__"),
    "tune",
)
NOBODY = "http://127.0.0.1:1"


class Runs:
    """Runs of an instance whose launcher is the warm one, and their leases."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.store = LeaseStore(settings.request_queue_url)
        self.told: list[str] = []

    def add(self, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        return self.instance.create_run_for_job(
            nothing, status=status, remote_job_origin=OF_TUNING, job_code_origin=None
        )

    def place(self, run_id: str, after: RunLease | None = None) -> RunLease:
        placed = self.store.grant(run_id, worker="w0", url=NOBODY, after=after, now=NOW)
        assert placed is not None
        return placed

    def checkpoint(self, placed: RunLease) -> Path:
        """A file of the lease's op."""
        path = Path(self.settings.home) / "checkpoints" / f"{placed.run_id}-{placed.number}"
        path = path.with_name(f"{path.name}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return path

    def to_resume(self) -> dict[str, int]:
        pool: Any = SimpleNamespace(client=lambda url: WorkerClient(url, "token", 1.0))
        return runs_to_resume(self.settings, self.instance, pool, self.told.append)

    def state(self, run_id: str) -> LeaseState:
        lease = self.store.current(run_id)
        assert lease is not None
        return lease.state

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status


@dg.job
def nothing() -> None: ...


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    settings = Settings(
        home=str(tmp_path / "home"), request_queue_url=f"sqlite:///{tmp_path}/requests.db"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        launcher = WarmPoolRunLauncher(settings=settings)
        launcher.register_instance(instance)
        instance._run_launcher = launcher
        yield Runs(settings, instance)


def test_workers_that_do_not_answer_are_waited_for_together(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, waits_s = 10, 0.5

    def why_lost(*_: object) -> str:
        time.sleep(waits_s)
        return "it does not answer"

    monkeypatch.setattr("maitre.workers.launch.lost_runs.why_lost", why_lost)
    made = [runs.add(dg.DagsterRunStatus.STARTED) for _ in range(count)]
    for run in made:
        runs.place(run.run_id)
    began_s = time.monotonic()
    assert set(runs.to_resume()) == {run.run_id for run in made}
    assert time.monotonic() - began_s < count * waits_s


def test_a_run_that_went_back_to_dagsters_queue_is_left_to_it(runs: Runs) -> None:
    queued = runs.add(dg.DagsterRunStatus.QUEUED)
    # Its launcher has been refused and is about to queue it.
    starting = runs.add(dg.DagsterRunStatus.STARTING)
    for run in (queued, starting):
        placed = runs.place(run.run_id)
        runs.store.refuse(run.run_id, placed.attempt, "w0 is busy")
    assert runs.to_resume() == {}
    launcher = runs.instance.run_launcher
    assert isinstance(launcher, WarmPoolRunLauncher)
    for run in (queued, starting):
        assert not launcher.take_over(run, None, [])
        assert runs.state(run.run_id) is LeaseState.RELEASED
        assert runs.status(run.run_id) is run.status


def test_a_worker_drops_a_run_that_went_back_to_dagsters_queue(runs: Runs) -> None:
    run = runs.add(dg.DagsterRunStatus.QUEUED)
    with pytest.raises(LeaseLost, match="queue"):
        execute_run(runs.instance, run.run_id, resume=True, before_write=lambda: None)
    assert runs.status(run.run_id) is dg.DagsterRunStatus.QUEUED


def test_a_run_whose_worker_died_before_its_first_event_goes_on(runs: Runs) -> None:
    run = runs.add(dg.DagsterRunStatus.STARTING)
    runs.place(run.run_id)
    assert runs.to_resume() == {run.run_id: 1}
    placed = runs.place(run.run_id, runs.store.current(run.run_id))
    runs.store.release(run.run_id, placed.attempt, PREEMPTED)
    assert runs.to_resume() == {run.run_id: 1}


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_is_over_is_forgotten_with_its_checkpoints(runs: Runs, is_deleted: bool) -> None:
    """Cancelled while it waited for a worker, say."""
    run = runs.add(dg.DagsterRunStatus.CANCELED)
    placed = runs.place(run.run_id)
    file = runs.checkpoint(placed)
    runs.store.release(run.run_id, placed.attempt, PREEMPTED, iterations=20)
    if is_deleted:
        runs.instance.delete_run(run.run_id)
    assert runs.to_resume() == {}
    assert runs.state(run.run_id) is LeaseState.ENDED
    assert not file.exists()


def test_checkpoints_that_cannot_be_removed_are_tried_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.add(dg.DagsterRunStatus.FAILURE)
    placed = runs.place(run.run_id)
    file = runs.checkpoint(placed)

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr("maitre.workers.checkpoints.CheckpointStore.remove", refuse)
        runs.to_resume()
    [line] = runs.told
    assert "cannot be removed: no" in line
    assert file.exists()
    runs.to_resume()
    assert not file.exists()
    assert runs.state(run.run_id) is LeaseState.ENDED


def test_neither_refusals_nor_preemptions_count_towards_giving_a_run_up(runs: Runs) -> None:
    run = runs.add(dg.DagsterRunStatus.STARTED)
    placed = runs.place(run.run_id)
    for _ in range(3 * MOST_TAKEN):
        runs.store.refuse(run.run_id, placed.attempt, "w0 is busy")
        placed = runs.place(run.run_id, runs.store.current(run.run_id))
    for _ in range(MOST_TAKEN):
        runs.store.release(run.run_id, placed.attempt, PREEMPTED)
        placed = runs.place(run.run_id, runs.store.current(run.run_id))
    assert placed.number > MOST_TAKEN
    runs.store.release(run.run_id, placed.attempt, "its worker is drained")
    assert runs.to_resume() == {run.run_id: 1}
    for _ in range(MOST_TAKEN):
        placed = runs.place(run.run_id, runs.store.current(run.run_id))
        runs.store.release(run.run_id, placed.attempt, "broke outside of its steps")
    runs.to_resume()
    assert runs.status(run.run_id) is dg.DagsterRunStatus.FAILURE
