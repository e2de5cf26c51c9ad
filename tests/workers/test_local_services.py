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


def test_no_argument_of_a_child_holds_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(_name: str, command: list[str], *, log: Path, environment: dict[str, str]) -> None:
        started.append((command, environment))

    uri = "postgresql+psycopg2://maitre:s3cret@db/mlflow"
    settings = Settings(
        home=str(tmp_path / "home"),
        mlflow_tracking_uri=uri,
        request_queue_url="postgresql+psycopg2://maitre:s3cret@db/maitre",
        worker_token="t0ken-of-the-workers",
    )
    monkeypatch.setattr(ChildProcess, "start", start)
    monkeypatch.setattr(TrackingStore, "client", lambda _: None)
    LocalServices.start(settings, tmp_path / "dagster", 1, 2, UpRecord("id", 1, ""))
    assert len(started) == 2
    for command, environment in started:
        assert not any(secret in word for word in command for secret in ("s3cret", "t0ken"))
        assert "127.0.0.1" in command
        assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
