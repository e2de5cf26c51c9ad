"""For how long a worker is kept for a run that has not come to it."""

from datetime import UTC, datetime, timedelta

import pytest

from maitre.scheduling.cluster import Cluster, ModelSpec
from resources.request_queue.request import RequestState, TuningRequest
from resources.warm_pool.live_snapshot import HANDED_TO, live_snapshot
from resources.warm_pool.pool import PoolWorker
from resources.warm_pool.wire import WorkerView

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MODEL = ModelSpec("tiny", warm_up_s=10.0, lookup_s=2.0, resize_s=1.0, iteration_s={1: 0.5})


@pytest.mark.parametrize(("held_s", "is_kept"), [(10.0, True), (-10.0, False)])
def test_a_worker_is_kept_for_a_launched_run_while_that_is_held(
    held_s: float, is_kept: bool
) -> None:
    """It may wait in Dagster's queue, where any worker may get it."""
    hour, now_s = timedelta(hours=1), NOW.timestamp()
    launched = TuningRequest(
        "id", "task", "tiny", "default", NOW, NOW + hour, RequestState.LAUNCHED, run_id="r",
        owner=HANDED_TO + "w", held_until=NOW + timedelta(seconds=held_s),
    )  # fmt: skip
    view = WorkerView("w", "tiny", "idle", now_s - 3, now_s - 60)
    idle = PoolWorker("w", "http://x", "tiny", now_s - 60, view)
    seen = live_snapshot(now_s, Cluster(4, 3.6, {"tiny": MODEL}), [launched], [idle], {})
    assert ("w" not in seen.pools["tiny"].idle) is is_kept
    assert ("id" in seen.pools["tiny"].running) is is_kept
