"""For how long a worker is kept for a run that has not come to it."""

from datetime import UTC, datetime, timedelta

from maitre.requests.request import HANDED_TO, RequestState, TuningRequest
from maitre.scheduling.cluster import Cluster, ModelSpec
from maitre.scheduling.snapshot import Pool
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.protocol import WorkerView
from maitre.workers.scheduling.live_snapshot import live_snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MODEL = ModelSpec("tiny", warm_up_s=10.0, lookup_s=2.0, resize_s=1.0, iteration_s={1: 0.5})


def worker(name: str, answers: bool = True) -> PoolWorker:
    now_s = NOW.timestamp()
    view = WorkerView(name, "tiny", "idle", now_s - 3, now_s - 60) if answers else None
    return PoolWorker(name, "http://x", "tiny", now_s - 60, view)


def seen_with(held_s: float, *workers: PoolWorker) -> Pool:
    """What the policy sees of a request whose run is launched and on no worker that says so."""
    launched = TuningRequest(
        "id", "task", "tiny", "default", NOW, NOW + timedelta(hours=1), RequestState.LAUNCHED,
        run_id="r", owner=HANDED_TO + "w", held_until=NOW + timedelta(seconds=held_s),
    )  # fmt: skip
    cluster = Cluster(4, 3.6, {"tiny": MODEL})
    return live_snapshot(NOW.timestamp(), cluster, [launched], workers, {}).pools["tiny"]


def test_a_worker_is_kept_for_a_launched_run_while_that_is_held() -> None:
    seen = seen_with(10.0, worker("another"), worker("w"))
    assert seen.running["id"].workers == ("w",)
    assert set(seen.idle) == {"another"}


def test_any_idle_worker_is_left_for_a_run_that_waits_in_dagsters_queue() -> None:
    seen = seen_with(-10.0, worker("another"), worker("w"))
    assert seen.running["id"].workers == ("another",)
    assert set(seen.idle) == {"w"}


def test_a_run_that_no_worker_tells_of_is_on_the_one_that_does_not_answer() -> None:
    seen = seen_with(-10.0, worker("another"), worker("silent", answers=False))
    assert seen.running["id"].workers == ("silent",)
    assert set(seen.idle) == {"another"}


def test_a_run_in_dagsters_queue_needs_a_worker_where_there_is_none() -> None:
    assert set(seen_with(-10.0).queued) == {"id"}
