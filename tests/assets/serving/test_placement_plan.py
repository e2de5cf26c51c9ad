"""The plan at the objective that its configuration names, and the check that holds it to that."""

from typing import Any

import dagster as dg
import pandas as pd
import pytest

from assets.serving.maxpack_model import maxpack_model
from assets.serving.placement_plan import no_server_starves, placement_plan
from maitre.maxpack.design import design
from maitre.maxpack.traces import make_traces
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.drift import server_risks
from maitre.placement.plan import PlacementPlan
from maitre.placement.settings import PlacementError
from maitre.placement.simulate_plan import check_plan
from maitre.tracking.maxpack import champion_at, load_champion
from maitre.twin import ServerProfile
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking

PROFILE = "h100-64gb/llama-3.1-8b-instruct"


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A home with traces, a champion at 10 s and a catalogue."""
    folder = tmp_path_factory.mktemp("plan")
    profile = ServerProfile.load(PROFILE)
    home = DataHome(root=str(folder / "home"))
    home.write_traces(make_traces(profile, design(profile, 96, seed=5), 300.0, seed=5))
    rows = [(f"a{i}", profile.base_model, 16, 0.12) for i in range(60)]
    frame = pd.DataFrame(rows, columns=["adapter", "base_model", "rank", "rate_rps"])
    home.write_catalogue(AdapterCatalogue.from_frame(frame))
    made: dict[str, object] = {
        "home": home,
        "mlflow": MlflowTracking(tracking_uri=f"sqlite:///{folder}/mlflow.db", ui_url="http://x"),
        "inputs": Inputs(tasks="", adapters="", profile=PROFILE, held_back=[]),
        "gateway": Gateway(routes_file=str(folder / "routes.json"), metrics_url=""),
    }
    config = {"ops": {"maxpack_model": {"config": {"iterations": 30}}}}
    needed = {name: made[name] for name in ("home", "mlflow")}
    assert dg.materialize([maxpack_model], resources=needed, run_config=config).success
    return made


def placed(resources: dict[str, object], ttft_slo_ms: float) -> tuple[PlacementPlan, bool]:
    """The plan for an objective, and whether the blocking check passed."""
    config = {"risk": 0.3, "ttft_slo_ms": ttft_slo_ms}
    result = dg.materialize(
        [placement_plan, no_server_starves],
        resources=resources,
        run_config={"ops": {"placement_plan": {"config": config}}},
        raise_on_error=False,
    )
    home = resources["home"]
    assert isinstance(home, DataHome)
    [check] = result.get_asset_check_evaluations()
    return home.plan(), check.passed


def test_a_plan_keeps_the_objective_that_is_asked_for(resources: dict[str, object]) -> None:
    usual, usual_passed = placed(resources, 10_000.0)
    tight, tight_passed = placed(resources, 400.0)
    assert usual_passed
    assert tight_passed
    assert tight.promise.ttft_slo_ms == 400.0
    assert tight.gpus >= usual.gpus


def test_the_check_judges_by_the_plans_own_objective(
    resources: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Any] = []

    def note_rule(*given: object, **options: object) -> object:
        judged.append(options["rule"])
        return check_plan(*given, **options)

    monkeypatch.setattr("maitre.placement.simulate_plan.check_plan", note_rule)
    placed(resources, 400.0)
    assert [rule.ttft_slo_ms for rule in judged] == [400.0]


def test_a_plan_is_weighed_at_its_own_objective(resources: dict[str, object]) -> None:
    placed(resources, 400.0)
    home, mlflow = resources["home"], resources["mlflow"]
    assert isinstance(home, DataHome)
    assert isinstance(mlflow, MlflowTracking)
    profile, plan, catalogue = ServerProfile.load(PROFILE), home.plan(), home.planned_catalogue()
    champion = load_champion(mlflow.store())
    fitted = champion_at(mlflow.store(), plan.promise.ttft_slo_ms, home.traces)
    assert champion
    assert fitted
    assert fitted[0].card.ttft_slo_ms == 400.0
    assert fitted[1] == champion[1]
    assert champion_at(mlflow.store(), 400.0, lambda: pytest.fail("fitted twice")) == fitted
    assert set(server_risks(plan, catalogue, profile, fitted[0])) == {s.name for s in plan.servers}
    with pytest.raises(PlacementError, match="expected 400 ms"):
        server_risks(plan, catalogue, profile, champion[0])
