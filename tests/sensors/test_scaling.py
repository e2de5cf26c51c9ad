"""How a round of the scheduler makes its pool larger and smaller."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import dagster as dg
import pytest

from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.dagster_runs import DagsterRuns
from maitre.workers.pool.pool import PoolError, PoolWorker
from maitre.workers.pool.protocol import ClaimView, WorkerView
from maitre.workers.scheduling.decision_log import read_tick
from maitre.workers.scheduling.round import schedule
from tests.sensors.said_pool import NOW, SaidPool, submit


def coming(name: str, has_answered: bool | None, failing: str = "") -> PoolWorker:
    """A pod with an address where nobody answers."""
    since_s = NOW.timestamp() - 120.0
    return PoolWorker(name, "http://127.0.0.1:1", "tiny", since_s, None, has_answered, failing)


def test_the_pool_grows_for_work_and_shrinks_to_its_floor_without(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    empty = SaidPool(idle=0)
    schedule(settings, DagsterRuns(settings, instance), empty, store.find(), NOW)
    # One is enough for two short jobs with minutes to go.
    assert empty.grown == [("tiny", 1)]
    for request in store.find():
        store.cancel(request.request_id, now=NOW)
    rested = SaidPool(idle=2, idle_s=10_000.0)
    schedule(settings, DagsterRuns(settings, instance), rested, [], NOW)
    assert len(rested.shrunk) == 1
    floor = SaidPool(idle=1, idle_s=10_000.0)
    schedule(settings, DagsterRuns(settings, instance), floor, [], NOW)
    assert floor.shrunk == []


def test_a_stop_that_the_floor_refuses_leaves_no_tick(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    runs = DagsterRuns(settings, instance)
    at_the_floor = SaidPool(idle=1, idle_s=10_000.0)
    for _ in range(3):
        assert schedule(settings, runs, at_the_floor, [], NOW).is_empty
    assert not (settings.scratch / "ticks").exists()
    schedule(settings, runs, SaidPool(idle=2, idle_s=10_000.0), [], NOW)
    [tick] = (settings.scratch / "ticks").iterdir()
    assert len(read_tick(tick).done) == 1


def loading(name: str) -> PoolWorker:
    """A worker that loads its model."""
    since_s = NOW.timestamp() - 5.0
    view = WorkerView(name, "tiny", "loading", since_s, since_s)
    return PoolWorker(name, "http://127.0.0.1:1", "tiny", since_s, view)


@pytest.mark.parametrize("still_coming", [loading("new"), coming("new", has_answered=False)])
def test_a_worker_that_is_coming_is_given_back_before_the_only_ready_one(
    settings: Settings, instance: dg.DagsterInstance, still_coming: PoolWorker
) -> None:
    pool = SaidPool(idle=1, idle_s=10_000.0)
    pool.said.append(still_coming)
    schedule(settings, DagsterRuns(settings, instance), pool, [], NOW)
    assert pool.shrunk == ["new"]


def test_the_only_ready_worker_stays_while_one_of_another_model_loads(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    pool = SaidPool(idle=1, idle_s=10_000.0)
    pool.said.append(replace(loading("new"), base_model="other"))
    schedule(settings, DagsterRuns(settings, instance), pool, [], NOW)
    assert pool.shrunk == []


@pytest.mark.parametrize("seed", range(20))
def test_a_round_never_takes_ready_workers_below_the_floor(
    settings: Settings, instance: dg.DagsterInstance, seed: int
) -> None:
    random = Random(seed)
    floor = random.randint(0, 3)
    settings = settings.model_copy(update={"min_warm_workers": floor})
    pool = SaidPool(idle=random.randint(0, 4), idle_s=10_000.0)
    ready = len(pool.said)
    pool.said += [loading(f"loads-{i}") for i in range(random.randint(0, 3))]
    pool.said += [coming(f"waits-{i}", has_answered=False) for i in range(random.randint(0, 3))]
    random.shuffle(pool.said)
    schedule(settings, DagsterRuns(settings, instance), pool, [], NOW)
    given_back = [name for name in pool.shrunk if name.startswith("w") and "waits" not in name]
    assert ready - len(given_back) >= min(floor, ready)
    assert len(pool.said) - len(pool.shrunk) >= min(floor, len(pool.said))


def test_workers_that_a_round_gives_back_are_given_back_together(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    rested = SaidPool(idle=4, idle_s=10_000.0)
    schedule(settings, DagsterRuns(settings, instance), rested, [], NOW)
    assert len(rested.shrunk) == 3
    assert rested.shrinks == 1


def test_more_workers_than_the_cluster_file_has_gpus_shrink_to_the_floor(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    crowd = SaidPool(idle=8, idle_s=10_000.0)
    done = schedule(settings, DagsterRuns(settings, instance), crowd, [], NOW)
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
    schedule(settings, DagsterRuns(settings, instance), pool, [], NOW)
    assert pool.removed == ["w0"]


def test_lost_workers_of_the_floor_come_back(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    pool = SaidPool(idle=1)
    three = settings.model_copy(update={"min_warm_workers": 3})
    schedule(three, DagsterRuns(three, instance), pool, [], NOW)
    assert pool.grown == [("tiny", 2)]


class RefusingPool(SaidPool):
    """Lists its workers and cannot be scaled."""

    def grow(self, base_model: str, count: int, beside: int) -> None:
        raise PoolError("cannot scale: 403")

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        raise PoolError("cannot patch pod: 409")


@pytest.mark.parametrize(
    ("idle", "min_warm_workers", "notes"),
    [(3, 1, ["could not give back", "409"]), (1, 2, ["could not start 1 workers of tiny", "403"])],
)
def test_runs_start_while_the_pool_cannot_be_scaled(
    settings: Settings,
    instance: dg.DagsterInstance,
    idle: int,
    min_warm_workers: int,
    notes: list[str],
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    settings = settings.model_copy(update={"min_warm_workers": min_warm_workers})
    pool = RefusingPool(idle, idle_s=3600.0)
    done = schedule(settings, DagsterRuns(settings, instance), pool, store.find(), NOW)
    assert [start.request.task for start in done.starts] == ["a"]
    assert any(all(part in note for part in notes) for note in done.notes)


def test_pods_that_do_not_come_up_are_not_joined_by_others(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    pool = SaidPool(idle=0)
    pool.said = [coming("w0", False)]
    schedule(settings, DagsterRuns(settings, instance), pool, store.find(), NOW)
    assert pool.grown == []
    # What is asked for all the same, to keep so many warm, is not while all of them fail.
    settings = settings.model_copy(update={"min_warm_workers": 3})
    pool.said = [coming("w0", False, "ImagePullBackOff")]
    done = schedule(settings, DagsterRuns(settings, instance), pool, store.find(), NOW)
    assert pool.grown == []
    assert any("w0 ImagePullBackOff" in note for note in done.notes)
    # Somebody that was up and does not answer is of no use now.
    settings = settings.model_copy(update={"min_warm_workers": 0})
    pool.said = [coming("w0", True)]
    schedule(settings, DagsterRuns(settings, instance), pool, store.find(), NOW)
    assert pool.grown == [("tiny", 1)]
