"""The MLflow store on SQLite: runs that are continued, versions registered once, champions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from maitre.tracking.store import RegisteredVersion, TrackedRun, TrackingError, TrackingStore
from maitre.tracking.tuned_prompt import MODEL_SOURCE


class LeaseLostError(Exception):
    """Another worker has been given the run."""


@pytest.fixture
def store(tmp_path: Path) -> TrackingStore:
    return TrackingStore(f"sqlite:///{tmp_path}/mlflow/mlflow.db", "http://mlflow.test")


def runs(store: TrackingStore) -> list[Run]:
    [experiment] = [e for e in store.client().search_experiments() if e.name == "maitre"]
    return list(store.client().search_runs([experiment.experiment_id]))


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def in_run(store: TrackingStore, run_id: str, partition: str = "one") -> Iterator[TrackedRun]:
    tags = {"dagster/run_id": run_id, "dagster/asset": "tuned", "dagster/partition": partition}
    with store.run(tags, "tuned", leave_open_on=(LeaseLostError,)) as run:
        yield run


def register(
    store: TrackingStore,
    run: TrackedRun,
    folder: Path,
    check: Callable[[], None] = lambda: None,
) -> RegisteredVersion:
    (folder / "prompt").mkdir(exist_ok=True)
    return store.register(
        run,
        name="tuned-prompt-one",
        python_model=MODEL_SOURCE,
        artifacts={"prompt": folder / "prompt"},
        signature=None,
        tags={"task": "one"},
        requirements=("numpy",),
        check=check,
    )


@pytest.mark.parametrize("at", ["log_param", "set_model_version_tag", "set_terminated"], ids=str)
def test_a_resumed_run_registers_its_result_once(
    store: TrackingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Killed before the version is there, before it is tagged, and when all is done."""

    def killed(*_: object, **__: object) -> NoReturn:
        raise Killed

    def register_in_run() -> RegisteredVersion:
        with in_run(store, "first") as run:
            run.params({"learning_rate": 0.1})
            return register(store, run, tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, at, killed)
        with pytest.raises(Killed):
            register_in_run()
    assert register_in_run().version == 1
    [version] = store.client().search_model_versions()
    assert version.tags["task"] == "one"
    [made] = runs(store)
    assert version.run_id == made.info.run_id
    assert made.info.status == "FINISHED"
    assert made.data.params["learning_rate"] == "0.1"
    # Another run, and another partition of this one, have versions of their own.
    for other in (in_run(store, "second"), in_run(store, "first", "two")):
        with other as run:
            register(store, run, tmp_path)
    assert len(store.client().search_model_versions()) == 3


def test_a_worker_that_lost_its_run_while_it_logged_the_model_registers_nothing(
    store: TrackingStore, tmp_path: Path
) -> None:
    """It was stopped, another one registers the result, and it is continued."""

    def lost() -> None:
        raise LeaseLostError("another worker has been given this run")

    with pytest.raises(LeaseLostError), in_run(store, "first") as run:
        register(store, run, tmp_path, lost)
    assert store.client().search_model_versions() == []

    def register_elsewhere() -> None:
        with in_run(store, "first") as same:
            assert register(store, same, tmp_path).version == 1
        lost()

    with pytest.raises(LeaseLostError), in_run(store, "first") as run:
        register(store, run, tmp_path, register_elsewhere)
    assert len(store.client().search_model_versions()) == 1
    # Nor does it say that the run, which the other one has ended, was cut off.
    assert [run.info.status for run in runs(store)] == ["FINISHED"]


def test_what_was_registered_while_the_model_was_logged_is_not_registered_again(
    store: TrackingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TrackingStore._log

    def log_slowly(*arguments: Any) -> str:
        uri = log(*arguments)
        monkeypatch.setattr(TrackingStore, "_log", log)
        with in_run(store, "first") as same:
            register(store, same, tmp_path)
        return uri

    monkeypatch.setattr(TrackingStore, "_log", log_slowly)
    with in_run(store, "first") as run:
        assert register(store, run, tmp_path).version == 1
    assert len(store.client().search_model_versions()) == 1


def test_a_try_after_a_failure_is_a_run_of_its_own(store: TrackingStore) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"), in_run(store, "first"):
            raise ValueError("no luck")
    assert [run.info.status for run in runs(store)] == ["FAILED", "FAILED"]
    with pytest.raises(Killed), in_run(store, "first"):
        raise Killed
    assert sorted(run.info.status for run in runs(store)) == ["FAILED", "FAILED", "KILLED"]


def test_there_is_no_champion_until_one_is_promoted(store: TrackingStore) -> None:
    assert store.champion("maxpack") is None
    client = store.client()
    client.create_registered_model("maxpack")
    assert store.champion("maxpack") is None
    for _ in range(2):
        client.create_model_version("maxpack", source="file:///nowhere")
    client.set_registered_model_alias("maxpack", "champion", "1")
    first = store.champion("maxpack")
    assert first is not None
    assert first.version == 1
    assert first.url == "http://mlflow.test/#/models/maxpack/versions/1"
    client.set_registered_model_alias("maxpack", "champion", "2")
    second = store.champion("maxpack")
    assert second is not None
    store.promote(first)
    assert second.version == 2
    assert store.champion("maxpack") == first


@pytest.mark.parametrize("uri", ["nonsense://u:s3cret@x", "", "mlruns", "s3://bucket"])
def test_a_store_that_mlflow_does_not_know_is_one_line_without_the_url(uri: str) -> None:
    with pytest.raises(TrackingError, match="mlflow_tracking_uri: expected a URL") as refused:
        TrackingStore(uri).client()
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)
