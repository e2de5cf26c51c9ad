"""MLflow tracking on a SQLite store: runs, their tags and end, champions."""

from pathlib import Path

import dagster as dg
import pytest

from resources.mlflow_tracking import MlflowTracking


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
    [experiment] = [e for e in tracking.client().search_experiments() if e.name == "maitre"]
    [run] = tracking.client().search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


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
