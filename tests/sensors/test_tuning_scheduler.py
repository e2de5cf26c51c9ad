"""The scheduler's round with a pool that only says what it is told."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml

from maitre.requests.request import RequestState
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.dagster_runs import DagsterRuns
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.client import WorkerClient
from maitre.workers.pool.protocol import ClaimView
from maitre.workers.scheduling.decision_log import read_tick
from maitre.workers.scheduling.round import schedule
from resources.request_queue import RequestQueue
from sensors.tuning_scheduler import tuning_scheduler
from tests.sensors.said_pool import NOW, SaidPool, submit


@dg.job
def _nothing() -> None:
    pass


def test_queued_requests_go_to_idle_workers_and_the_tick_replays(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    pool = SaidPool(idle=3)
    done = schedule(settings, DagsterRuns(settings, instance), pool, store.find(), NOW)
    assert {start.request.task for start in done.starts} == {"a", "b"}
    assert len({start.workers for start in done.starts}) == 2
    assert {r.state for r in store.find()} == {RequestState.STARTING}
    [tick] = (Path(settings.home) / "ticks").iterdir()
    decision = read_tick(tick)
    assert decision.decide_again() == decision.actions


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
    done = schedule(settings, DagsterRuns(settings, instance), SaidPool(idle=4), store.find(), NOW)
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
    placed = LeaseStore(settings.request_queue_url).grant(
        "run", worker="w0", url="http://127.0.0.1:1", after=None, now=NOW
    )
    assert placed is not None
    preempted: list[str] = []
    pool.client = lambda url: SimpleNamespace(preempt=preempted.append)
    done = schedule(settings, DagsterRuns(settings, instance), pool, [tight], NOW)
    assert preempted == [placed.attempt]
    assert done.starts == []
    assert done.unsettled
    assert store.get(tight.request_id).state is queued
    pool.said[0] = replace(pool.said[0], view=view)
    [start] = schedule(settings, DagsterRuns(settings, instance), pool, [tight], NOW).starts
    assert (start.request.task, start.workers) == ("tight", ("w0",))


def test_two_daemons_start_a_request_once(settings: Settings, instance: dg.DagsterInstance) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, *"abcd")
    waiting = store.find()

    def daemon(_: int) -> list[str]:
        done = schedule(settings, DagsterRuns(settings, instance), SaidPool(idle=4), waiting, NOW)
        return [start.request.task for start in done.starts]

    with ThreadPoolExecutor(3) as daemons:
        started = [task for tasks in daemons.map(daemon, range(3)) for task in tasks]
    assert sorted(started) == list("abcd")


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
    leases = LeaseStore(settings.request_queue_url)
    # Nobody listens there.
    leases.grant("run", worker="w", url="http://127.0.0.1:1", after=None, now=NOW)
    pool = SaidPool(idle=1)
    pool.client = lambda url: WorkerClient(url, "token", 1.0)
    rounds = [schedule(settings, DagsterRuns(settings, instance), pool, [], NOW) for _ in range(3)]
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
    leases = LeaseStore(settings.request_queue_url)
    placed = leases.grant("run", worker="w", url="http://127.0.0.1:1", after=None, now=NOW)
    assert placed is not None
    leases.renew("run", placed.attempt, now=NOW, iterations=20)
    leases.release("run", placed.attempt, "preempted", iterations=30)
    run = SimpleNamespace(is_finished=False, status=dg.DagsterRunStatus.STARTED, run_id="run")
    launcher = WarmPoolRunLauncher(settings=settings)
    instance: Any = SimpleNamespace(run_launcher=launcher, get_run_by_id=lambda _: run)
    pool = SaidPool(idle=1)
    pool.client = lambda url: WorkerClient(url, "token", 1.0)
    schedule(settings, DagsterRuns(settings, instance), pool, [], NOW)
    [tick] = (Path(settings.home) / "ticks").iterdir()
    [waiting] = read_tick(tick).snapshot.pools["tiny"].queued.values()
    assert (waiting.iterations_done, waiting.started) == (30, True)
    # Nobody took it there: what it has done is not forgotten.
    again = leases.current("run")
    assert again is not None
    assert (again.number, again.iterations) == (2, 30)


@pytest.mark.parametrize("has_pool", [True, False])
def test_requests_of_another_model_hide_neither_runs_nor_requests(
    settings: Settings,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    has_pool: bool,
) -> None:
    monkeypatch.setattr("maitre.workers.scheduling.round.QUEUE_WINDOW", 2)
    store = RequestStore(settings.request_queue_url)
    soon = NOW + timedelta(minutes=1)
    for index in range(3):
        store.submit(f"other {index}", deadline_at=soon, now=NOW, base_model="another")
    submit(store, "ended", "waits")
    ended, waits = store.first_queued(["tiny"], 2)
    run = instance.create_run_for_job(_nothing, tags={})
    instance.report_run_failed(run)
    assert store.move(
        ended.request_id,
        expected=RequestState.QUEUED,
        state=RequestState.LAUNCHED,
        run_id=run.run_id,
    )
    pool = SaidPool(idle=1) if has_pool else None
    monkeypatch.setattr("sensors.tuning_scheduler.pool_of", lambda _: pool)
    queue = RequestQueue(url=settings.request_queue_url)
    with dg.build_sensor_context(instance=instance) as context:
        result = tuning_scheduler(context, request_queue=queue, settings=settings)
    assert store.get(ended.request_id).state is RequestState.FAILED
    started = {request.partition_key for request in result.run_requests}
    if has_pool:
        assert started == {"waits"}
        assert store.get(waits.request_id).state is RequestState.STARTING
    else:
        # Every request that is taken makes room: the next tick starts the next ones.
        assert started == {"other 0", "other 1"}


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
    # The live workers of other tests are in the environment for as long as there are any.
    monkeypatch.setenv("MAITRE_WARM_POOL", "off")
    monkeypatch.setattr("sensors.tuning_scheduler.pool_of", lambda _: SaidPool(idle=0))
    monkeypatch.setattr("sensors.tuning_scheduler.Tick", lambda *_: SimpleNamespace(starts=list))
    queue = RequestQueue(url=settings.request_queue_url)
    with dg.build_sensor_context(instance=instance) as context:
        tuning_scheduler(context, request_queue=queue, settings=settings)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "no speeds" in line]
    assert "2 queued of another, which no worker here holds" in line
