"""The scheduler's round with a pool that only says what it is told."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml

from resources.request_queue import RequestQueue
from resources.request_queue.request import RequestState, TuningRequest
from resources.request_queue.store import RequestStore
from resources.settings import Settings
from resources.warm_pool.client import WorkerClient
from resources.warm_pool.launcher import WarmPoolRunLauncher
from resources.warm_pool.placements import PlacementStore
from resources.warm_pool.pool import PoolError, PoolWorker
from resources.warm_pool.scheduler import schedule
from resources.warm_pool.tick import read_tick, replay
from resources.warm_pool.wire import ClaimView, WorkerView
from sensors.tuning_scheduler import tuning_scheduler, without_run

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class SaidPool:
    """Idle workers that were idle for a while; notes how it is scaled."""

    def __init__(self, idle: int, idle_s: float = 1.0) -> None:
        self.grown: list[tuple[str, int]] = []
        self.shrunk: list[str] = []
        self.shrinks = 0
        self.removed: list[str] = []
        since_s = NOW.timestamp() - idle_s
        self.said = [
            PoolWorker(name, "http://127.0.0.1:1", "tiny", since_s, view)
            for name in (f"w{i}" for i in range(idle))
            for view in [WorkerView(name, "tiny", "idle", since_s, since_s)]
        ]

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        return self.said

    def grow(self, base_model: str, count: int, beside: int) -> None:
        self.grown.append((base_model, count))

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        self.shrinks += 1
        self.shrunk += [worker.name for worker in workers]

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        self.removed += [worker.name for worker in workers]

    def client(self, url: str) -> WorkerClient:
        raise AssertionError("nobody is to be asked")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = {"warm_up_s": 10, "lookup_s": 2, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": 4, "gpu_price_per_hour": 1.0, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    return Settings(
        home=str(tmp_path / "home"),
        base_model="models/tiny",
        cluster=str(tmp_path / "cluster.yaml"),
        request_queue_url=f"sqlite:///{tmp_path}/requests.db",
        warm_workers=1,
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def submit(store: RequestStore, *names: str) -> None:
    for name in names:
        store.submit(
            name, deadline_at=NOW + timedelta(minutes=5), now=NOW, base_model="tiny", lookup=False
        )


def test_queued_requests_go_to_idle_workers_and_the_tick_replays(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    pool = SaidPool(idle=3)
    done = schedule(settings, instance, pool, store.find(), NOW)
    assert {start.request.task for start in done.starts} == {"a", "b"}
    assert len({start.workers for start in done.starts}) == 2
    assert {r.state for r in store.find()} == {RequestState.STARTING}
    [tick] = (Path(settings.home) / "ticks").iterdir()
    document = read_tick(tick)
    seen_again = replay(document)
    assert [type(action).__name__ for action in seen_again] == [
        entry["action"] for entry in document["actions"]
    ]


def test_a_deadline_that_one_worker_misses_gets_several(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    speeds = {1: 0.5, 2: 0.26, 4: 0.14}
    model = {"warm_up_s": 10, "lookup_s": 2, "resize_s": 1, "iteration_s": speeds}
    cluster = {"gpus": 4, "gpu_price_per_hour": 1.0, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    store = RequestStore(settings.request_queue_url)
    for name, deadline_s in (("loose", 300), ("tight", 14)):
        store.submit(
            name, deadline_at=NOW + timedelta(seconds=deadline_s), now=NOW, base_model="tiny",
            lookup=False,
        )  # fmt: skip
    done = schedule(settings, instance, SaidPool(idle=4), store.find(), NOW)
    workers = {start.request.task: start.workers for start in done.starts}
    assert len(workers["tight"]) > 1
    assert len(workers.get("loose", ())) <= 1
    assert not set(workers["tight"]) & set(workers.get("loose", ()))
    owners = {request.task: request.owner for request in store.find()}
    assert owners["tight"] == "worker " + ",".join(workers["tight"])


def test_a_preempted_jobs_worker_gets_the_other_when_it_has_let_go(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    for name, deadline_s, iterations in (("loose", 600.0, 60.0), ("tight", 14.0, 20.0)):
        store.submit(
            name, deadline_at=NOW + timedelta(seconds=deadline_s), now=NOW, base_model="tiny",
            lookup=False, iterations_cold=iterations, iterations_bank=iterations,
        )  # fmt: skip
    [tight, loose] = store.find()
    queued = RequestState.QUEUED
    store.move(loose.request_id, expected=queued, state=RequestState.LAUNCHED, run_id="run")
    pool = SaidPool(idle=1)
    claim = ClaimView("a", "run", "tuning", 3, 60, {})
    view = pool.said[0].view
    assert view is not None
    pool.said[0] = replace(pool.said[0], view=replace(view, state="busy", claim=claim))
    placed = PlacementStore(settings.request_queue_url).place(
        "run", worker="w0", url="http://127.0.0.1:1", after=None, now=NOW
    )
    assert placed is not None
    preempted: list[str] = []
    pool.client = lambda url: SimpleNamespace(preempt=preempted.append)  # type: ignore[method-assign,assignment,return-value]
    done = schedule(settings, instance, pool, [tight], NOW)
    assert preempted == [placed.attempt]
    assert done.starts == []
    assert done.unsettled
    assert store.get(tight.request_id).state is queued
    pool.said[0] = replace(pool.said[0], view=view)
    [start] = schedule(settings, instance, pool, [tight], NOW).starts
    assert (start.request.task, start.workers) == ("tight", ("w0",))


def test_two_daemons_start_a_request_once(settings: Settings, instance: dg.DagsterInstance) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, *"abcd")
    waiting = store.find()

    def daemon(_: int) -> list[str]:
        done = schedule(settings, instance, SaidPool(idle=4), waiting, NOW)
        return [start.request.task for start in done.starts]

    with ThreadPoolExecutor(3) as daemons:
        started = [task for tasks in daemons.map(daemon, range(3)) for task in tasks]
    assert sorted(started) == list("abcd")


def test_the_pool_grows_for_work_and_shrinks_to_its_floor_without(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    empty = SaidPool(idle=0)
    schedule(settings, instance, empty, store.find(), NOW)
    # One is enough for two short jobs with minutes to go.
    assert empty.grown == [("tiny", 1)]
    for request in store.find():
        store.cancel(request.request_id, now=NOW)
    rested = SaidPool(idle=2, idle_s=10_000.0)
    schedule(settings, instance, rested, [], NOW)
    assert len(rested.shrunk) == 1
    floor = SaidPool(idle=1, idle_s=10_000.0)
    schedule(settings, instance, floor, [], NOW)
    assert floor.shrunk == []


def test_workers_that_a_round_gives_back_are_given_back_together(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    rested = SaidPool(idle=4, idle_s=10_000.0)
    schedule(settings, instance, rested, [], NOW)
    assert len(rested.shrunk) == 3
    assert rested.shrinks == 1


def test_more_workers_than_the_cluster_file_has_gpus_shrink_to_the_floor(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    crowd = SaidPool(idle=8, idle_s=10_000.0)
    done = schedule(settings, instance, crowd, [], NOW)
    assert len(set(crowd.shrunk)) == 7
    assert crowd.grown == []
    assert not any("in place of" in note for note in done.notes)


def test_a_drained_worker_that_stays_is_ended_but_not_while_it_works_or_at_once(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    pool = SaidPool(idle=4)
    since_s = NOW.timestamp() - 100.0
    stays = WorkerView("w0", "tiny", "draining", since_s, since_s)
    works = replace(stays, worker="w1", claim=ClaimView("a", "r", "registering", 9, 9, {}))
    has_just_begun = replace(stays, worker="w2", since_s=NOW.timestamp() - 10.0)
    for place, view in enumerate((stays, works, has_just_begun)):
        pool.said[place] = replace(pool.said[place], view=view)
    schedule(settings, instance, pool, [], NOW)
    assert pool.removed == ["w0"]


def test_that_a_run_waits_for_a_worker_is_said_once(settings: Settings) -> None:
    launcher = WarmPoolRunLauncher(settings=settings)
    run = SimpleNamespace(is_finished=False, status=dg.DagsterRunStatus.STARTED)
    freed: list[str] = []
    storage = SimpleNamespace(
        supports_global_concurrency_limits=True, free_concurrency_slots_for_run=freed.append
    )
    instance: Any = SimpleNamespace(
        run_launcher=launcher, get_run_by_id=lambda _: run, event_log_storage=storage
    )
    placements = PlacementStore(settings.request_queue_url)
    # Nobody listens there.
    placements.place("run", worker="w", url="http://127.0.0.1:1", after=None, now=NOW)
    pool = SaidPool(idle=1)
    pool.client = lambda url: WorkerClient(url, "token", 1.0)  # type: ignore[method-assign]
    rounds = [schedule(settings, instance, pool, [], NOW) for _ in range(3)]
    assert [done.notes for done in rounds] == [["run waits for a worker"], [], []]
    assert all(done.unsettled for done in rounds)
    # What it holds of Dagster's pools others may need, to be done with the worker that it gets.
    assert freed == ["run"]


def test_a_run_that_waits_is_planned_with_what_it_has_done(settings: Settings) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    launched = RequestState.LAUNCHED
    store.move(request.request_id, expected=RequestState.QUEUED, state=launched, run_id="run")
    placements = PlacementStore(settings.request_queue_url)
    placed = placements.place("run", worker="w", url="http://127.0.0.1:1", after=None, now=NOW)
    assert placed is not None
    placements.renew("run", placed.attempt, now=NOW, iterations=20)
    placements.release("run", placed.attempt, "preempted", iterations=30)
    run = SimpleNamespace(is_finished=False, status=dg.DagsterRunStatus.STARTED, run_id="run")
    launcher = WarmPoolRunLauncher(settings=settings)
    instance: Any = SimpleNamespace(run_launcher=launcher, get_run_by_id=lambda _: run)
    pool = SaidPool(idle=1)
    pool.client = lambda url: WorkerClient(url, "token", 1.0)  # type: ignore[method-assign]
    schedule(settings, instance, pool, [], NOW)
    [tick] = (Path(settings.home) / "ticks").iterdir()
    [waiting] = read_tick(tick)["pools"]["tiny"]["queued"]
    assert (waiting["iterations_done"], waiting["started"]) == (30, True)
    # Nobody took it there: what it has done is not forgotten.
    again = placements.current("run")
    assert again is not None
    assert (again.number, again.iterations) == (2, 30)


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


def test_requests_that_no_plan_covers_are_named_once_a_tick(
    settings: Settings,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    for name in ("b", "c"):
        store.submit(name, deadline_at=NOW + timedelta(hours=1), now=NOW, base_model="another")
    monkeypatch.setenv("MAITRE_CLUSTER", settings.cluster)
    monkeypatch.setattr("sensors.tuning_scheduler.pool_of", lambda _: SaidPool(idle=0))
    monkeypatch.setattr("sensors.tuning_scheduler.Watch", lambda *_: SimpleNamespace(starts=list))
    queue = RequestQueue(url=settings.request_queue_url)
    with dg.build_sensor_context(instance=instance) as context:
        tuning_scheduler(context, request_queue=queue)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "no speeds" in line]
    assert f"2 queued of another, of which {settings.cluster} has no speeds" in line


def test_lost_workers_of_the_floor_come_back(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    pool = SaidPool(idle=1)
    three = settings.model_copy(update={"warm_workers": 3})
    schedule(three, instance, pool, [], NOW)
    assert pool.grown == [("tiny", 2)]


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


class RefusingPool(SaidPool):
    """Lists its workers and cannot be scaled."""

    def grow(self, base_model: str, count: int, beside: int) -> None:
        raise PoolError("cannot scale: 403")

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        raise PoolError("cannot patch pod: 409")


@pytest.mark.parametrize(
    ("idle", "warm_workers", "notes"),
    [(3, 1, ["could not give back", "409"]), (1, 2, ["could not start 1 workers of tiny", "403"])],
)
def test_runs_start_while_the_pool_cannot_be_scaled(
    settings: Settings,
    instance: dg.DagsterInstance,
    idle: int,
    warm_workers: int,
    notes: list[str],
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    settings = settings.model_copy(update={"warm_workers": warm_workers})
    pool = RefusingPool(idle, idle_s=3600.0)
    done = schedule(settings, instance, pool, store.find(), NOW)
    assert [start.request.task for start in done.starts] == ["a"]
    assert any(all(part in note for part in notes) for note in done.notes)


def coming(name: str, has_answered: bool | None, failing: str = "") -> PoolWorker:
    """A pod with an address where nobody answers."""
    since_s = NOW.timestamp() - 120.0
    return PoolWorker(name, "http://127.0.0.1:1", "tiny", since_s, None, has_answered, failing)


def test_pods_that_do_not_come_up_are_not_joined_by_others(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    pool = SaidPool(idle=0)
    pool.said = [coming("w0", False)]
    schedule(settings, instance, pool, store.find(), NOW)
    assert pool.grown == []
    # What is asked for all the same, to keep so many warm, is not while all of them fail.
    settings = settings.model_copy(update={"warm_workers": 3})
    pool.said = [coming("w0", False, "ImagePullBackOff")]
    done = schedule(settings, instance, pool, store.find(), NOW)
    assert pool.grown == []
    assert any("w0 ImagePullBackOff" in note for note in done.notes)
    # Somebody that was up and does not answer is of no use now.
    settings = settings.model_copy(update={"warm_workers": 0})
    pool.said = [coming("w0", True)]
    schedule(settings, instance, pool, store.find(), NOW)
    assert pool.grown == [("tiny", 1)]
