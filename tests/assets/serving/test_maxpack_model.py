"""Promotion in the asset graph: a second model that is worse does not become champion."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from assets.serving.maxpack_model import maxpack_model
from maitre.maxpack.design import design
from maitre.maxpack.traces import make_traces
from maitre.tracking.maxpack import MODEL_NAME
from maitre.twin import ServerProfile
from resources.data_home import DataHome
from resources.mlflow_tracking import MlflowTracking


@pytest.fixture(scope="module")
def traces() -> pd.DataFrame:
    profile = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
    return make_traces(profile, design(profile, 128, seed=5), 300.0, seed=5, workers=1)


def materialise(home: DataHome, mlflow: MlflowTracking, iterations: int) -> dict[str, object]:
    result = dg.materialize(
        [maxpack_model],
        resources={"home": home, "mlflow": mlflow},
        run_config={"ops": {"maxpack_model": {"config": {"iterations": iterations}}}},
    )
    [made] = result.asset_materializations_for_node("maxpack_model")
    return {name: value.value for name, value in made.metadata.items()}


def test_a_worse_second_model_leaves_the_champion(traces: pd.DataFrame, tmp_path: Path) -> None:
    home = DataHome(root=str(tmp_path / "home"))
    home.write_traces(traces)
    mlflow = MlflowTracking(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", ui_url="http://mlflow.test"
    )
    first = materialise(home, mlflow, iterations=60)
    assert first["promoted"]
    second = materialise(home, mlflow, iterations=1)
    assert second["health_brier"] > first["health_brier"]
    assert not second["promoted"]
    champion = mlflow.store().champion(MODEL_NAME)
    assert champion is not None
    assert champion.version == first["champion_version"] == second["champion_version"] == 1
