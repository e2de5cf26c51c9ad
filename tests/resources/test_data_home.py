"""What assets hand on: each artefact by name and type."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.placement import catalogue as catalogue_module
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.plan import PlacementPlan
from maitre.twin import ServerProfile
from resources.data_home import BankPromptResult, DataHome, NotMadeError


@pytest.fixture
def home(tmp_path: Path) -> DataHome:
    return DataHome(root=str(tmp_path))


@pytest.mark.parametrize(
    ("read", "asset"),
    [
        (DataHome.task_table, "tuning_tasks"),
        (DataHome.catalogue, "adapter_catalogue"),
        (DataHome.planned_catalogue, "placement_plan"),
        (DataHome.plan, "placement_plan"),
        (DataHome.traces, "twin_traces"),
        (lambda home: home.bank_prompt("a"), "bank_prompts"),
        (lambda home: home.samples("cpu-tiny"), "vllm_measurements"),
    ],
)
def test_the_asset_that_makes_a_missing_artefact_is_named(
    home: DataHome, read: object, asset: str
) -> None:
    assert callable(read)
    with pytest.raises(NotMadeError, match=f"materialise the asset {asset} first"):
        read(home)


def test_what_may_be_missing_is_none(home: DataHome) -> None:
    assert home.deployed_plan() is None
    assert home.bank_prompt_result("a") is None
    assert home.fitted_profile("cpu-tiny") is None
    assert not home.has_measurement("cpu-tiny")
    assert home.twin_verdict() is None
    assert home.observed_traffic() is None
    assert home.trace_file("a.parquet") is None
    assert home.manifests() == {}
    assert home.measured_kinds() == []
    assert not home.has_plan()
    assert not home.has_catalogue()


def test_a_catalogue_comes_back_without_being_validated_again(
    home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame(
        {
            "adapter": ["a", "b"],
            "base_model": ["m", "m"],
            "rank": [8, 16],
            "rate_rps": [0.5, 1.0],
            "mean_input_tokens": [100.0, np.nan],
        }
    )
    catalogue = AdapterCatalogue.from_frame(frame)
    home.write_catalogue(catalogue)
    monkeypatch.setattr(catalogue_module, "RowProblems", None)
    found = home.catalogue()
    pd.testing.assert_frame_equal(found.frame(), catalogue.frame())
    for column in ("names", "base_models", "ranks", "rates_rps", "mean_output_tokens"):
        assert getattr(found, column).dtype == getattr(catalogue, column).dtype


def test_plans_profiles_and_prompts_come_back(home: DataHome) -> None:
    plan = PlacementPlan("cpu/tiny", ())
    home.write_plan(plan)
    home.write_deployed_plan(plan)
    assert home.plan() == home.deployed_plan() == plan
    profile = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
    home.write_fitted_profile("h100", profile)
    assert home.fitted_profile("h100") == profile
    result = BankPromptResult(key="k", eval_loss=0.5, eval_accuracy=0.75, iterations=3)
    home.write_bank_prompt("a", np.ones((2, 3), dtype=np.float32), result)
    assert home.bank_prompt_result("a") == result
    assert home.bank_prompt("a").tolist() == [[1.0] * 3] * 2
    home.write_measurement("h100", pd.DataFrame({"a": [1]}), {"name": "h100"})
    assert home.measured_kinds() == ["h100"]


def test_an_object_store_serves_as_well() -> None:
    home = DataHome(root="memory://maitre-home")
    home.write_manifests({"vllm-0.yaml": "a: 1"})
    assert home.manifests() == {"vllm-0.yaml": "a: 1"}
