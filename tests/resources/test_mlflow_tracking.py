"""MLflow tracking on a SQLite store: runs, their tags and end, champions."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import dagster as dg
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from maitre.workers.leases import PlacementLost
from resources import mlflow_models
from resources.mlflow_tracking import MlflowTracking, RegisteredVersion, TrackedRun


@pytest.fixture
def tracking(tmp_path: Path) -> MlflowTracking:
    return MlflowTracking(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", ui_url="http://mlflow.test"
    )


def materialise(tracking: MlflowTracking, *, fail: bool) -> dg.ExecuteInProcessResult:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["one"]))
    def measured(context: dg.AssetExecutionContext, mlflow: MlflowTracking) -> dg.MaterializeResult:
        with mlflow.run(context, name="a name") as run:
            run.params({"long": "x" * 2000})
            run.curve({"loss": [(step, 1.0 / (step + 1)) for step in range(1500)]})
            if fail:
                raise ValueError("no such luck")
            return dg.MaterializeResult(metadata=run.metadata())

    return dg.materialize(
        [measured], resources={"mlflow": tracking}, partition_key="one", raise_on_error=False
    )


def runs(tracking: MlflowTracking) -> list[Run]:
    [experiment] = [e for e in tracking.client().search_experiments() if e.name == "maitre"]
    return list(tracking.client().search_runs([experiment.experiment_id]))


def test_either_interface_leads_to_the_other(tracking: MlflowTracking) -> None:
    result = materialise(tracking, fail=False)
    [made] = result.asset_materializations_for_node("measured")
    run_id = made.metadata["mlflow_run_id"].value
    run = tracking.client().get_run(run_id)
    assert run.data.tags["dagster/run_id"] == result.run_id
    assert run.data.tags["dagster/asset"] == "measured"
    assert run.data.tags["dagster/partition"] == "one"
    assert made.metadata["mlflow_run"].value == (
        f"http://mlflow.test/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    )
    assert run.info.run_name == "a name"
    assert run.info.status == "FINISHED"
    assert len(tracking.client().get_metric_history(run_id, "loss")) == 1500
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(
        Path(tracking.tracking_uri.removeprefix("sqlite:///")).parent
    )


def test_a_run_whose_asset_fails_has_failed(tracking: MlflowTracking) -> None:
    assert not materialise(tracking, fail=True).success
    [run] = runs(tracking)
    assert run.info.status == "FAILED"


class Killed(BaseException):
    """The process ends here."""


def in_run(run_id: str, partition: str = "one") -> Any:
    """The context of an asset's execution."""
    return SimpleNamespace(
        asset_key=dg.AssetKey("tuned"),
        has_partition_key=True,
        partition_key=partition,
        run=SimpleNamespace(run_id=run_id),
    )


def register(
    tracking: MlflowTracking,
    run: TrackedRun,
    folder: Path,
    check: Callable[[], None] = lambda: None,
) -> RegisteredVersion:
    (folder / "prompt").mkdir(exist_ok=True)
    return tracking.register(
        run,
        name="tuned-prompt-one",
        python_model=Path(mlflow_models.__file__).with_name("tuned_prompt.py"),
        artifacts={"prompt": folder / "prompt"},
        signature=None,
        tags={"task": "one"},
        requirements=("numpy",),
        check=check,
    )


@pytest.mark.parametrize("at", ["log_param", "set_model_version_tag", "set_terminated"], ids=str)
def test_a_resumed_run_registers_its_result_once(
    tracking: MlflowTracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Killed before the version is there, before it is tagged, and when all is done."""

    def killed(*_: object, **__: object) -> NoReturn:
        raise Killed

    def store() -> RegisteredVersion:
        with tracking.run(in_run("first")) as run:
            run.params({"learning_rate": 0.1})
            return register(tracking, run, tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, at, killed)
        with pytest.raises(Killed):
            store()
    assert store().version == 1
    [version] = tracking.client().search_model_versions()
    assert version.tags["task"] == "one"
    [made] = runs(tracking)
    assert version.run_id == made.info.run_id
    assert made.info.status == "FINISHED"
    assert made.data.params["learning_rate"] == "0.1"
    # Another run, and another partition of this one, have versions of their own.
    for context in (in_run("second"), in_run("first", "two")):
        with tracking.run(context) as run:
            register(tracking, run, tmp_path)
    assert len(tracking.client().search_model_versions()) == 3


def test_a_worker_that_lost_its_run_while_it_logged_the_model_registers_nothing(
    tracking: MlflowTracking, tmp_path: Path
) -> None:
    """It was stopped, another one registers the result, and it is continued."""

    def lost() -> None:
        raise PlacementLost("another worker has been given this run")

    with pytest.raises(PlacementLost), tracking.run(in_run("first")) as run:
        register(tracking, run, tmp_path, lost)
    assert tracking.client().search_model_versions() == []

    def register_elsewhere() -> None:
        with tracking.run(in_run("first")) as same:
            assert register(tracking, same, tmp_path).version == 1
        lost()

    with pytest.raises(PlacementLost), tracking.run(in_run("first")) as run:
        register(tracking, run, tmp_path, register_elsewhere)
    assert len(tracking.client().search_model_versions()) == 1
    # Nor does it say that the run, which the other one has ended, was cut off.
    assert [run.info.status for run in runs(tracking)] == ["FINISHED"]


def test_what_was_registered_while_the_model_was_logged_is_not_registered_again(
    tracking: MlflowTracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MlflowTracking._log

    def log_slowly(*arguments: Any) -> str:
        uri = log(*arguments)
        monkeypatch.setattr(MlflowTracking, "_log", log)
        with tracking.run(in_run("first")) as same:
            register(tracking, same, tmp_path)
        return uri

    monkeypatch.setattr(MlflowTracking, "_log", log_slowly)
    with tracking.run(in_run("first")) as run:
        assert register(tracking, run, tmp_path).version == 1
    assert len(tracking.client().search_model_versions()) == 1


def test_a_try_after_a_failure_is_a_run_of_its_own(tracking: MlflowTracking) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"), tracking.run(in_run("first")):
            raise ValueError("no luck")
    assert [run.info.status for run in runs(tracking)] == ["FAILED", "FAILED"]
    with pytest.raises(Killed), tracking.run(in_run("first")):
        raise Killed
    assert sorted(run.info.status for run in runs(tracking)) == ["FAILED", "FAILED", "KILLED"]


def test_there_is_no_champion_until_one_is_promoted(tracking: MlflowTracking) -> None:
    assert tracking.champion("maxpack") is None
    client = tracking.client()
    client.create_registered_model("maxpack")
    assert tracking.champion("maxpack") is None
    for _ in range(2):
        client.create_model_version("maxpack", source="file:///nowhere")
    client.set_registered_model_alias("maxpack", "champion", "1")
    first = tracking.champion("maxpack")
    assert first is not None
    assert first.version == 1
    assert first.url == "http://mlflow.test/#/models/maxpack/versions/1"
    client.set_registered_model_alias("maxpack", "champion", "2")
    second = tracking.champion("maxpack")
    assert second is not None
    tracking.promote(first)
    assert second.version == 2
    assert tracking.champion("maxpack") == first
