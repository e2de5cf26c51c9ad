"""What the scheduler makes of the runs that requests have, one, several or none any more."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.dagster_internals import LaunchRunContext, RunLauncher
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.request_states import without_run
from tests.sensors.said_pool import NOW, submit

STARTING = dg.DagsterRunStatus.STARTING


class Ordinary(RunLauncher[Any]):
    """Notes what it is to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []

    def launch_run(self, context: LaunchRunContext) -> None:
        self.launched.append(context.dagster_run.run_id)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        assert run is not None
        self._instance.report_run_canceling(run)
        return True


@dg.job
def nothing() -> None: ...


class Requested:
    """A request, and runs for it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.ordinary = Ordinary()
        self.ordinary.register_instance(instance)
        self.launcher = WarmPoolRunLauncher(settings=settings)
        self.launcher.register_instance(instance)
        self.launcher.__dict__["_ordinary_launcher"] = self.ordinary
        instance._run_launcher = self.launcher
        self.store = RequestStore(settings.request_queue_url)
        made = self.store.submit("task", deadline_at=NOW + timedelta(hours=1), now=NOW)
        self.request_id = made.request_id

    def launch(self, **more: str) -> str:
        tags = {"maitre/request": self.request_id, "maitre/attempt": "1"} | more
        run = self.instance.create_run_for_job(nothing, tags=tags, status=STARTING)
        self.launcher.launch_run(LaunchRunContext(run, None))
        return run.run_id

    def canceled_because(self, run_id: str) -> str:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.CANCELED
        kind = dg.DagsterEventType.RUN_CANCELED
        [entry] = self.instance.all_logs(run_id, of_type=kind)
        assert entry.dagster_event is not None
        return entry.dagster_event.message or ""

    def look(self) -> TuningRequest:
        """A round's look at its run; the request after it."""
        without_run(self.instance, self.store, self.store.find())
        return self.store.get(self.request_id)


@pytest.fixture
def requested(tmp_path: Path) -> Iterator[Requested]:
    settings = Settings(request_queue_url=f"sqlite:///{tmp_path}/requests.db")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Requested(settings, instance)


def test_of_two_runs_for_an_attempt_the_second_is_cancelled(requested: Requested) -> None:
    first = requested.launch()
    second = requested.launch()
    assert requested.ordinary.launched == [first]
    because = requested.canceled_because(second)
    assert f"attempt 1 of request {requested.request_id} is run {first}" in because
    # The request follows the one that runs, not the newest one.
    seen = requested.look()
    assert (seen.state, seen.run_id) == (RequestState.LAUNCHED, first)


def test_a_run_that_is_launched_again_is_launched(requested: Requested) -> None:
    first = requested.launch()
    run = requested.instance.get_run_by_id(first)
    assert run is not None
    requested.launcher.launch_run(LaunchRunContext(run, None))
    assert requested.ordinary.launched == [first, first]


def test_a_run_that_comes_after_its_request_has_ended_is_cancelled(requested: Requested) -> None:
    requested.store.cancel(requested.request_id, now=NOW)
    assert "is cancelled already" in requested.canceled_because(requested.launch())
    requested.store.retry(requested.request_id, now=NOW)
    assert "attempt 1 of request" in requested.canceled_because(requested.launch())
    again = requested.launch(**{"maitre/attempt": "2"})
    assert requested.ordinary.launched == [again]


def test_a_re_execution_runs_and_is_not_the_requests(requested: Requested) -> None:
    first = requested.launch()
    again = requested.launch(**{"dagster/parent_run_id": first})
    assert requested.ordinary.launched == [first, again]
    assert requested.look().run_id == first


@pytest.mark.parametrize(
    "tags", [{"maitre/request": ""}, {"maitre/request": "of-another-queue"}, {"maitre/attempt": ""}]
)
def test_a_run_by_hand_is_launched(requested: Requested, tags: dict[str, str]) -> None:
    assert requested.launch(**tags) in requested.ordinary.launched
    assert requested.store.get(requested.request_id).run_id is None


@pytest.mark.parametrize(
    ("is_cancelled", "state"), [(False, RequestState.FAILED), (True, RequestState.CANCELLED)]
)
def test_a_request_whose_run_was_deleted_ends(
    requested: Requested, is_cancelled: bool, state: RequestState
) -> None:
    run_id = requested.launch()
    requested.look()
    if is_cancelled:
        requested.store.cancel(requested.request_id, now=NOW)
    requested.instance.delete_run(run_id)
    seen = requested.look()
    assert (seen.state, seen.message) == (state, f"its run {run_id} was deleted")


def test_a_run_is_cancelled_once(requested: Requested) -> None:
    run_id = requested.launch()
    requested.look()
    requested.store.cancel(requested.request_id, now=NOW)
    for _ in range(3):
        requested.look()
    kind = dg.DagsterEventType.RUN_CANCELING
    assert len(requested.instance.all_logs(run_id, of_type=kind)) == 1


def test_the_runs_of_what_stays_queued_are_looked_for_once_in_a_tick(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    first, second = store.find()
    asked: list[int] = []
    look = instance.get_run_records

    def count(filters: dg.RunsFilter) -> Sequence[dg.RunRecord]:
        asked.append(len(filters.tags["maitre/request"]))
        return look(filters)

    monkeypatch.setattr(instance, "get_run_records", count)
    queued: set[TuningRequest] = set()
    for _ in range(3):
        assert without_run(instance, store, store.find(), queued) == [first, second]
    assert asked == [2]
    # One that somebody has taken may have a run.
    store.take(first.request_id, owner="me", now=NOW, hold_s=60.0)
    assert len(without_run(instance, store, store.find(), queued)) == 2
    assert asked == [2, 1]


def test_what_was_cancelled_before_its_launch_is_not_started(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    # Whoever took it has died, long ago.
    assert store.take(request.request_id, owner="dies", now=NOW - timedelta(days=9999), hold_s=1.0)
    store.cancel(request.request_id, now=NOW)
    assert without_run(instance, store, store.find()) == []
    assert store.get(request.request_id).state is RequestState.CANCELLED


def test_a_request_whose_run_failed_has_failed_and_can_be_tried_again(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()

    @dg.job
    def nothing() -> None: ...

    run = instance.create_run_for_job(
        nothing, tags={"maitre/request": request.request_id, "maitre/attempt": "1"}
    )
    instance.report_run_failed(run)
    assert without_run(instance, store, [request]) == []
    failed = store.get(request.request_id)
    assert (failed.state, failed.run_id) == (RequestState.FAILED, run.run_id)
    again = store.retry(request.request_id, now=NOW)
    assert without_run(instance, store, [again]) == [again]


def test_the_first_line_of_what_went_wrong_is_in_the_request(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()

    @dg.op
    def tune() -> None:
        raise ValueError("task a, train example 3: too long\nand a second line")

    @dg.job
    def broken() -> None:
        tune()

    tags = {"maitre/request": request.request_id, "maitre/attempt": "1"}
    run = broken.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    assert without_run(instance, store, [request]) == []
    message = store.get(request.request_id).message
    assert message == f"run {run.run_id}: failure: ValueError: task a, train example 3: too long"
