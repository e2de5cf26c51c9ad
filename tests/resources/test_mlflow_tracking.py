"""The MLflow run of an asset: its tags, its links, and how it ends."""

from pathlib import Path

import dagster as dg
import pytest
from mlflow.entities import Run

from maitre.workers.leases import LeaseLost
from resources.mlflow_tracking import MlflowTracking, run_links


@pytest.fixture
def tracking(tmp_path: Path) -> MlflowTracking:
    return MlflowTracking(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", ui_url="http://mlflow.test"
    )


def materialise(
    tracking: MlflowTracking, error: Exception | None = None
) -> dg.ExecuteInProcessResult:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["one"]))
    def measured(context: dg.AssetExecutionContext, mlflow: MlflowTracking) -> dg.MaterializeResult:
        with mlflow.run(context, name="a name") as run:
            run.params({"long": "x" * 2000})
            run.curve({"loss": [(step, 1.0 / (step + 1)) for step in range(1500)]})
            if error is not None:
                raise error
            return dg.MaterializeResult(metadata=run_links(run))

    return dg.materialize(
        [measured], resources={"mlflow": tracking}, partition_key="one", raise_on_error=False
    )


def runs(tracking: MlflowTracking) -> list[Run]:
    [experiment] = [e for e in tracking.store().client().search_experiments() if e.name == "maitre"]
    return list(tracking.store().client().search_runs([experiment.experiment_id]))


def test_either_interface_leads_to_the_other(tracking: MlflowTracking) -> None:
    result = materialise(tracking)
    [made] = result.asset_materializations_for_node("measured")
    run_id = made.metadata["mlflow_run_id"].value
    run = tracking.store().client().get_run(run_id)
    assert run.data.tags["dagster/run_id"] == result.run_id
    assert run.data.tags["dagster/asset"] == "measured"
    assert run.data.tags["dagster/partition"] == "one"
    assert made.metadata["mlflow_run"].value == (
        f"http://mlflow.test/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    )
    assert run.info.run_name == "a name"
    assert run.info.status == "FINISHED"
    assert len(tracking.store().client().get_metric_history(run_id, "loss")) == 1500
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(
        Path(tracking.tracking_uri.removeprefix("sqlite:///")).parent
    )


def test_a_run_whose_asset_fails_has_failed(tracking: MlflowTracking) -> None:
    assert not materialise(tracking, ValueError("no luck")).success
    [run] = runs(tracking)
    assert run.info.status == "FAILED"


def test_the_run_of_a_worker_that_has_lost_its_lease_stays_open(tracking: MlflowTracking) -> None:
    """Another worker continues it, or has ended it."""
    assert not materialise(tracking, LeaseLost("another worker has this run")).success
    [run] = runs(tracking)
    assert run.info.status == "RUNNING"
