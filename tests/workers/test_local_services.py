"""What `maitre up` prepares before it starts its servers, which are doubles here."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from maitre.processes.child import ChildProcess
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.home_lock import UpRecord
from maitre.workers.launch.training_slots import TRAINING_POOL
from maitre.workers.local_services import LocalServices
from maitre.workers.pool.local import LocalPool


@pytest.mark.parametrize(("gpus", "slots"), [(3, 3), (1, 2)])
def test_every_worker_that_there_may_be_gets_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, slots: int
) -> None:
    model = {"warm_up_s": 10, "lookup_s": 2, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": gpus, "gpu_price_per_hour": 1.0, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    home = tmp_path / "home"
    settings = Settings(home=str(home), cluster=str(tmp_path / "cluster.yaml"))
    monkeypatch.setattr(ChildProcess, "start", lambda *_, **__: None)
    monkeypatch.setattr(TrackingStore, "client", lambda _: None)
    monkeypatch.setattr(LocalPool, "grow", lambda *_, **__: None)
    up = UpRecord("id", 1, "")
    services = LocalServices.start(settings, home / "dagster", 1, 2, up, workers=2)
    assert services.pool is not None
    assert services.pool.expected == slots
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        pool = instance.event_log_storage.get_concurrency_info(TRAINING_POOL)
        queue = instance.get_concurrency_config().run_queue_config
    assert pool.slot_count == slots
    # Of runs that wait for a worker there may be many.
    assert queue is not None
    assert queue.max_concurrent_runs >= 100
    assert queue.tag_concurrency_limits == [{"key": "dagster/backfill", "limit": 4}]
