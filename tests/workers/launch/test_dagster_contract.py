"""What is relied on of Dagster's inside, with real workers and a real instance."""

import logging
import os
import signal
import time
from collections.abc import Callable

import dagster as dg
import pytest
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from maitre.tracking.store import TrackingStore
from maitre.workers.launch import coordinator
from maitre.workers.launch.dagster_internals import (
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    SubmitRunContext,
    WorkerStatus,
)
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.leases import LeaseState
from tests.workers.live import Live, until

LONG = {"max_iterations": 100_000}
SOME = {"max_iterations": 200}


def monitor(live: Live, run_id: str) -> None:
    """One look of Dagster's run monitoring at a started run."""
    [record] = live.instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
    if record.dagster_run.status is dg.DagsterRunStatus.STARTED:
        monitor_started_run(live.instance, None, record, logging.getLogger("test"))


def monitor_until_moved(live: Live, run_id: str, worker: str) -> None:
    """Looks again and again, as Dagster does: a connection that is closing shows nothing."""

    def look() -> bool:
        monitor(live, run_id)
        lease = live.leases.current(run_id)
        return lease is not None and lease.worker != worker

    until(look)


def monitor_until_ended(live: Live, run_id: str) -> dg.DagsterRunStatus:
    def look() -> bool:
        monitor(live, run_id)
        time.sleep(0.2)
        run = live.instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    until(look, 60.0)
    return live.ended(run_id)


def ends(live: Live, run_id: str) -> list[str]:
    """The events of the run that must come once."""
    once = {"PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED", "ASSET_MATERIALIZATION"}
    events = live.instance.all_logs(run_id)
    kinds = [e.dagster_event.event_type_value for e in events if e.dagster_event]
    return [kind for kind in kinds if kind in once]


def submit(live: Live, run_id: str) -> None:
    run = live.instance.get_run_by_id(run_id)
    assert run is not None
    live.instance.run_coordinator.submit_run(SubmitRunContext(run, None))


def launcher(live: Live) -> WarmPoolRunLauncher:
    found = live.instance.run_launcher
    assert isinstance(found, WarmPoolRunLauncher)
    return found


def test_a_tagged_run_executes_in_a_workers_process(live: Live) -> None:
    names = live.start_workers(2)
    run_id = live.launch()
    assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]
    lease = live.leases.current(run_id)
    assert lease is not None
    assert lease.worker in names
    assert lease.state is LeaseState.ENDED
    pids = {e.dagster_event.pid for e in live.instance.all_logs(run_id) if e.dagster_event}
    assert live.pid(lease.worker) in pids


def test_a_cancelled_run_ends_at_its_next_step_and_the_next_run_is_whole(live: Live) -> None:
    live.start_workers(2)
    run_id = live.launch(**LONG)
    name = live.tuning_on(run_id)
    assert launcher(live).terminate(run_id)
    assert live.ended(run_id) is dg.DagsterRunStatus.CANCELED
    assert ends(live, run_id) == ["PIPELINE_CANCELED"]
    after = live.launch(tags={"maitre/workers": name})
    # A cancel of what is over must not hit what comes next.
    assert not launcher(live).terminate(run_id)
    assert live.ended(after) is dg.DagsterRunStatus.SUCCESS


def test_a_full_pool_sends_a_run_back_to_the_queue(live: Live) -> None:
    live.start_workers(2)
    long = [live.launch(**LONG) for _ in range(2)]
    for run_id in long:
        live.tuning_on(run_id)
    waiting = live.instance.get_run_by_id(live.create_run())
    assert waiting is not None
    with pytest.raises(DagsterUserCodeUnreachableError, match="goes back to the queue"):
        launcher(live).launch_run(LaunchRunContext(waiting, None))
    for run_id in long:
        launcher(live).terminate(run_id)
        live.ended(run_id)


def test_a_run_for_a_chosen_worker_passes_the_queue_and_else_waits_in_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[str] = []
    # Dagster queues only runs of a workspace, which there is none of here.
    monkeypatch.setattr(
        coordinator, "report_enqueued", lambda _, run: queued.append(run.run_id) or run
    )
    [chosen, *_] = live.start_workers(2)
    first = live.create_run(tags={"maitre/workers": chosen}, **SOME)
    submit(live, first)
    assert live.tuning_on(first) == chosen
    second = live.create_run(tags={"maitre/workers": chosen})
    submit(live, second)
    assert queued == [second]
    assert live.ended(first) is dg.DagsterRunStatus.SUCCESS


def test_a_run_that_two_daemons_launch_runs_once(live: Live) -> None:
    live.start_workers(2)
    run_id = live.create_run(**SOME)
    live.instance.launch_run(run_id, None)
    run = live.instance.get_run_by_id(run_id)
    assert run is not None
    launcher(live).launch_run(LaunchRunContext(run, None))
    assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(live: Live) -> None:
    """Split brain: the first worker is stopped, replaced, and then goes on."""
    live.start_workers(2)
    run_id = live.launch(**SOME)
    first = live.tuning_on(run_id, after_iteration=20)
    pid = live.pid(first)
    os.kill(pid, signal.SIGSTOP)
    try:
        lease = live.leases.current(run_id)
        assert lease is not None
        # Not yet: its lease still runs.
        run = live.instance.get_run_by_id(run_id)
        assert run is not None
        assert launcher(live).check_run_worker_health(run).status is WorkerStatus.RUNNING
        live.leases.release(run_id, lease.attempt, "its lease has run out")
        status = monitor_until_ended(live, run_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status is dg.DagsterRunStatus.SUCCESS
    until(lambda: live.worker(first).is_idle)
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def stop_outside_a_transaction(pid: int, read: Callable[[], object]) -> None:
    """Send SIGSTOP to `pid` while it does not hold SQLite's lock: `read` works while it is stopped.

    A stopped process keeps its lock, and SQLite has one for the whole file.
    """
    for _ in range(20):
        os.kill(pid, signal.SIGSTOP)
        try:
            read()
        except (MlflowException, OperationalError):
            os.kill(pid, signal.SIGCONT)
        else:
            return
    raise AssertionError("the worker holds SQLite's lock at all times")


def test_a_worker_that_is_stopped_while_it_registers_makes_no_second_version(live: Live) -> None:
    live.start_workers(2)
    mlflow = TrackingStore(live.settings.mlflow_tracking_uri).client()
    run_id = live.launch("third")
    is_third = "name = 'tuned-prompt-third'"
    experiment = until(lambda: mlflow.get_experiment_by_name("maitre")).experiment_id
    # It logs the model, of which there is no version yet.
    until(lambda: mlflow.search_logged_models([experiment], filter_string=is_third))
    lease = live.leases.current(run_id)
    assert lease is not None
    first = lease.worker
    pid = live.pid(first)
    stop_outside_a_transaction(pid, lambda: mlflow.search_model_versions(is_third))
    try:
        assert mlflow.search_model_versions(is_third) == []
        assert live.leases.release(run_id, lease.attempt, "its lease has run out")
        status = monitor_until_ended(live, run_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status is dg.DagsterRunStatus.SUCCESS
    until(lambda: live.worker(first).is_idle)
    [version] = mlflow.search_model_versions(is_third)
    assert mlflow.get_run(version.run_id).info.status == "FINISHED"
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def test_a_killed_workers_run_goes_on_elsewhere_from_its_checkpoint(live: Live) -> None:
    live.start_workers(2)
    run_id = live.launch(**SOME)
    first = live.tuning_on(run_id, after_iteration=25)
    os.kill(live.pid(first), signal.SIGKILL)
    until(lambda: first not in [w.name for w in live.pool.workers()])
    monitor_until_moved(live, run_id, first)
    second = live.tuning_on(run_id)
    assert second != first
    view = live.worker(second).view
    assert view is not None
    assert view.claim is not None
    # At most one checkpoint interval of ten steps is done again.
    assert view.claim.iteration > 15
    assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def test_a_run_whose_worker_dies_after_its_result_was_stored_stores_it_once(live: Live) -> None:
    live.start_workers(2)
    run_id = live.launch()
    stored = dg.DagsterEventType.ASSET_MATERIALIZATION
    until(lambda: live.instance.all_logs(run_id, of_type=stored))
    lease = live.leases.current(run_id)
    assert lease is not None
    os.kill(live.pid(lease.worker), signal.SIGKILL)
    assert monitor_until_ended(live, run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def test_a_drained_worker_hands_its_run_on(live: Live) -> None:
    live.start_workers(2)
    run_id = live.launch(**SOME)
    first = live.tuning_on(run_id, after_iteration=20)
    os.kill(live.pid(first), signal.SIGTERM)
    until(lambda: first not in [w.name for w in live.pool.workers()])
    lease = live.leases.current(run_id)
    assert lease is not None
    assert lease.state is LeaseState.RELEASED
    assert monitor_until_ended(live, run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def test_a_run_that_waits_for_a_worker_holds_no_slot_of_a_pool(live: Live) -> None:
    live.start_workers(2)
    storage = live.instance.event_log_storage
    storage.set_concurrency_slots("training", 1)
    try:
        run_id = live.launch(**SOME)
        live.tuning_on(run_id, after_iteration=3)
        lease = live.leases.current(run_id)
        assert lease is not None
        live.pool.client(lease.url).preempt(lease.attempt)
        until(lambda: all(worker.is_idle for worker in live.pool.workers()))
        assert not storage.get_concurrency_info("training").claimed_slots
        assert live.ended(live.launch()) is dg.DagsterRunStatus.SUCCESS
        run = live.instance.get_run_by_id(run_id)
        assert run is not None
        assert launcher(live).take_over(run, live.pool, live.pool.workers()[:1])
        assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
    finally:
        storage.delete_concurrency_limit("training")
