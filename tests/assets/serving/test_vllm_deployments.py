"""The plan applied from the asset, to servers of this machine that a double stands in for."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from assets.serving.placement_plan import plan_in_service
from assets.serving.running_servers import running_servers
from assets.serving.vllm_deployments import vllm_deployments
from maitre.errors import UserError
from maitre.files import write_text
from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
from maitre.serving.fleet.local_server import LaunchOptions
from maitre.serving.manifests.kubectl import Applied
from maitre.serving.proxy.routes import RoutedServer, Routes, read_routes
from maitre.settings import Settings
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.language_model import LanguageModel
from tests.tiny_plans import LIMITS, tiny_plan
from tests.vllm_double import write_adapter, write_double_python


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataHome:
    """A home with a plan of one server and two adapters, and a vLLM that is a double."""
    write_double_python(tmp_path / "venv" / "bin" / "python")
    for name in "ab":
        write_adapter(tmp_path / "adapters" / name)
    home = DataHome(root=str(tmp_path / "home"))
    home.write_plan(tiny_plan({"s": {"a": 1.0, "b": 1.0}}))
    return home


def deploy(home: DataHome, tmp_path: Path, **config: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [vllm_deployments, running_servers],
        resources={
            "home": home,
            "inputs": Inputs(tasks="", adapters="", profile="cpu/smollm2-135m", held_back=[]),
            "gateway": Gateway(routes_file=str(tmp_path / "serving" / "routes.json")),
            "language_model": LanguageModel(path_or_id=str(tmp_path / "tiny")),
            "settings": Settings(vllm_venv=str(tmp_path / "venv")),
        },
        run_config={"ops": {"running_servers": {"config": config}}},
    )


def steps(result: dg.ExecuteInProcessResult) -> int:
    [made] = result.asset_materializations_for_node("running_servers")
    return int(made.metadata["steps_done"].value)


def test_the_asset_makes_the_plan_true_and_a_second_time_does_nothing(
    home: DataHome, tmp_path: Path
) -> None:
    adapters = str(tmp_path / "adapters")
    options = FleetOptions(Path("python"), Path(adapters), {}, LaunchOptions("", ""))
    fleet = LocalFleet(tmp_path / "serving", options)
    try:
        assert steps(deploy(home, tmp_path, target="local", adapters_folder=adapters)) > 0
        assert set(read_routes(fleet.routes_path).adapters) == {"a", "b"}
        assert steps(deploy(home, tmp_path, target="local", adapters_folder=adapters)) == 0
        fleet.stop_all()
        (tmp_path / "adapters" / "b" / "adapter_config.json").unlink()
        with pytest.raises(dg.Failure, match=r"1 steps failed.*load b s"):
            deploy(home, tmp_path, target="local", adapters_folder=adapters)
        assert set(read_routes(fleet.routes_path).adapters) == {"a"}, "the others went on"
    finally:
        fleet.stop_all()


def test_what_cannot_be_applied_is_refused(home: DataHome, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with one folder per adapter"):
        deploy(home, tmp_path, target="local")
    with pytest.raises(dg.DagsterInvalidConfigError, match="target"):
        deploy(home, tmp_path, target="mars")


def test_what_was_applied_to_a_cluster_is_what_is_served_there_though_a_new_plan_is_made(
    home: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "maitre.serving.manifests.kubectl.apply_folder", lambda *_, dry_run: Applied("applied")
    )
    assert deploy(home, tmp_path, target="kubernetes").success
    gateway = Gateway(routes_file=str(tmp_path / "serving" / "routes.json"))
    assert not plan_in_service(home, gateway, "cpu/tiny").servers, "nothing is routed"
    applied = home.plan()
    routed = Routes({"s": RoutedServer("http://s", "tiny")}, applied.servers_of())
    write_text(Path(gateway.routes_file), routed.to_json())
    larger = replace(LIMITS, max_loras=8, max_cpu_loras=8)
    home.write_plan(tiny_plan({"s": {"a": 1.0, "b": 1.0}}, larger))
    assert plan_in_service(home, gateway, "cpu/tiny") == applied
