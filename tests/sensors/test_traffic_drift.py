"""The sensor's skips and requests, on samples that were written down before."""

import json
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from assets.serving.observed_traffic import at_observed_rates, observed_traffic
from assets.serving.placement_plan import plan_in_service
from assets.serving.traffic_samples import SAMPLES, samples_since
from maitre.errors import UserError
from maitre.files import write_text
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.diff import same_servers
from maitre.placement.place import place
from maitre.placement.plan import Evidence, PlacementPlan, Promise
from maitre.serving.fleet.fleet import FleetServer
from maitre.serving.observe import ServerSample, TrafficSample
from maitre.serving.proxy.routes import RoutedServer, Routes
from maitre.twin import ServerProfile
from pipelines import serving
from resources.data_home import TRAFFIC_RATES, DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking
from sensors import traffic_drift as sensor
from sensors.traffic_drift import watch_once

PROFILE = "h100-64gb/llama-3.1-8b-instruct"
ADAPTERS = [f"a{i}" for i in range(12)]


class Seen(Gateway):
    """A gateway of recorded samples: requests of each adapter per minute, from the start on."""

    per_minute: float = 3.0
    silent: bool = False
    waiting_per_minute: float = 0.0

    def sample(self, at_s: float) -> TrafficSample:
        if self.silent:
            return TrafficSample(at_s, (), {}, {"s": "no server at http://127.0.0.1:1"})
        counts = dict.fromkeys(ADAPTERS, self.per_minute * at_s / 60.0)
        waits = self.waiting_per_minute * at_s / 60.0
        return TrafficSample(at_s, (ServerSample("s", 2, waits, 0, 0.1, at_s, at_s, at_s),), counts)


@pytest.fixture
def home(tmp_path: Path) -> DataHome:
    return DataHome(root=str(tmp_path / "home"))


@pytest.fixture
def planned(home: DataHome, tmp_path: Path) -> DataHome:
    """A plan that is served, too."""
    serve(tmp_path, plan_at(home, 0.05))
    return home


def plan_at(home: DataHome, rate_rps: float) -> PlacementPlan:
    """The newest plan, for these rates."""
    profile = ServerProfile.load(PROFILE)
    frame = pd.DataFrame({"adapter": ADAPTERS, "rank": 8, "rate_rps": rate_rps})
    catalogue = AdapterCatalogue.from_frame(frame.assign(base_model=profile.base_model))
    home.write_catalogue(catalogue)
    plan = place(catalogue, profile, check_duration_s=0.0, baselines=False)
    home.write_plan(plan)
    return plan


def serve(tmp_path: Path, plan: PlacementPlan) -> None:
    """The files that `maitre deploy local` leaves."""
    url = "http://127.0.0.1:1"
    servers = {server.name: RoutedServer(url, server.base_model) for server in plan.servers}
    write_text(tmp_path / "routes.json", Routes(servers, plan.servers_of()).to_json())
    fleet = [
        FleetServer(server.name, url, 1, "log", server.base_model, server.config)
        for server in plan.servers
    ]
    write_text(tmp_path / "fleet.json", json.dumps([asdict(server) for server in fleet]))


def minutes(
    home: DataHome, tmp_path: Path, gateway: Gateway, count: int, cursor: str | None = None
):
    """A tick a minute; the results."""
    results = []
    for minute in range(count):
        done = watch_once(cursor, home, *resources(tmp_path), gateway, 60.0 * minute)
        cursor = done.cursor
        results.append(done)
    return results


def resources(tmp_path: Path) -> tuple[Inputs, MlflowTracking]:
    mlflow = MlflowTracking(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", ui_url="http://127.0.0.1:5000"
    )
    return Inputs(tasks="", adapters="", profile=PROFILE, held_back=[]), mlflow


def gateway(tmp_path: Path, **more: object) -> Seen:
    return Seen(routes_file=str(tmp_path / "routes.json"), **more)


@pytest.fixture(autouse=True)
def steady_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is registered: the steady state weighs the plan."""
    monkeypatch.setattr(sensor, "champion_at", lambda *_: None)


def test_traffic_as_planned_is_let_alone(planned: DataHome, tmp_path: Path) -> None:
    results = minutes(planned, tmp_path, gateway(tmp_path), 5)
    assert not any(result.run_requests for result in results)
    assert "the samples cover 0 s: expected at least 120 s" in results[0].skip_reason.skip_message
    assert "no server is about to starve" in results[-1].skip_reason.skip_message
    assert len(samples_since(planned, 0.0)) == 5


def test_far_more_traffic_is_asked_for_once_with_few_moves(
    planned: DataHome, tmp_path: Path
) -> None:
    results = minutes(planned, tmp_path, gateway(tmp_path, per_minute=600.0), 8)
    [asked] = [request for result in results for request in result.run_requests or ()]
    promised = {"risk": 0.01, "ttft_slo_ms": 10_000.0}
    config = {"change_running": True, **promised}
    assert asked.run_config == {"ops": {"placement_plan": {"config": config}}}
    assert "risk" in asked.tags["maitre/why"]
    assert "requested" in results[-1].skip_reason.skip_message
    assert json.loads(results[-1].cursor)["asked_of_plan"] in asked.run_key


def test_what_is_served_is_weighed_and_not_the_newest_plan(
    planned: DataHome, tmp_path: Path
) -> None:
    plan_at(planned, 30.0)
    busy = gateway(tmp_path, per_minute=600.0)
    results = minutes(planned, tmp_path, busy, 5)
    assert not any(result.run_requests for result in results)
    assert "risk" in results[-1].skip_reason.skip_message
    assert "the newest plan holds at these rates and waits" in results[-1].skip_reason.skip_message
    plan_at(planned, 0.01)
    later = watch_once(results[-1].cursor, planned, *resources(tmp_path), busy, 300.0)
    assert later.run_requests, "the newest plan does not hold either"


def test_a_server_that_starves_counts_though_no_plan_names_it(
    planned: DataHome, tmp_path: Path
) -> None:
    results = minutes(planned, tmp_path, gateway(tmp_path, waiting_per_minute=60.0), 6)
    [asked] = [request for result in results for request in result.run_requests or ()]
    assert "s: risk not known, its queue grows" in asked.tags["maitre/why"]


def test_few_moves_are_from_what_is_served(planned: DataHome, tmp_path: Path) -> None:
    served = planned.plan()
    assert plan_at(planned, 30.0).gpus > served.gpus
    found = plan_in_service(planned, gateway(tmp_path), PROFILE)
    assert same_servers(found.servers, served.servers)


def test_a_skip_says_why(home: DataHome, tmp_path: Path) -> None:
    nothing = Gateway(routes_file=str(tmp_path / "routes.json"))
    [skipped] = minutes(home, tmp_path, nothing, 1)
    assert "routes to no server" in skipped.skip_reason.skip_message
    one = Routes({"s": RoutedServer("http://127.0.0.1:1", "tiny")}, {"a0": {"s": 1.0}})
    write_text(tmp_path / "routes.json", one.to_json())
    [skipped] = minutes(home, tmp_path, gateway(tmp_path, silent=True), 1)
    assert "no server answers: no server at" in skipped.skip_reason.skip_message
    home.files().write_folder(SAMPLES, {})
    [skipped] = minutes(home, tmp_path, gateway(tmp_path), 1)
    assert "there is no catalogue" in skipped.skip_reason.skip_message
    plan_at(home, 0.05)
    home.files().write_folder(SAMPLES, {})
    *_, skipped = minutes(home, tmp_path, gateway(tmp_path), 4)
    assert "no server of known options" in skipped.skip_reason.skip_message


def test_what_cannot_be_weighed_is_said(
    planned: DataHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = minutes(planned, tmp_path, gateway(tmp_path, per_minute=0.0), 4)
    assert "no request came in 180 s" in silence[-1].skip_reason.skip_message

    def refuse(*_: object) -> None:
        raise UserError("the champion is of\nanother profile")

    monkeypatch.setattr(sensor, "champion_at", refuse)
    planned.files().write_folder(SAMPLES, {})
    refused = minutes(planned, tmp_path, gateway(tmp_path), 4)
    expected = "the plan's risks cannot be computed: the champion is of another profile"
    assert refused[-1].skip_reason.skip_message == expected


def test_the_sensor_is_on_and_its_job_changes_the_plan() -> None:
    defs = serving.defs()
    found = defs.resolve_sensor_def("traffic_drift")
    assert found.default_status is dg.DefaultSensorStatus.RUNNING
    [target] = found.targets
    job = defs.resolve_job_def(target.job_name)
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        "observed_traffic", "placement_plan", "vllm_deployments",
    }  # fmt: skip


def test_the_asset_keeps_rates_that_plans_are_then_made_for(
    planned: DataHome, tmp_path: Path
) -> None:
    seen = gateway(tmp_path, per_minute=60.0)
    minutes(planned, tmp_path, seen, 5)
    made = dg.materialize(
        [observed_traffic],
        resources={"home": planned, "gateway": seen},
        # The recorded samples lie at the beginning of time: all of them are in the window.
        run_config={"ops": {"observed_traffic": {"config": {"window_s": 1e11}}}},
    )
    assert made.success
    assert set(planned.files().read_frame(TRAFFIC_RATES)["adapter"]) == set(ADAPTERS)
    catalogue = planned.catalogue()
    about = planned.observed_traffic()
    assert about is not None
    at, observed = at_observed_rates(planned, catalogue, about["at_s"] + 1.0, 3600.0)
    assert observed
    assert at.rates_rps == pytest.approx(1.0, rel=0.05)
    at, observed = at_observed_rates(planned, catalogue, about["at_s"] + 7200.0, 3600.0)
    assert not observed
    assert list(at.rates_rps) == list(catalogue.rates_rps), "rates seen long ago are not used"


def test_without_servers_the_asset_says_what_to_do(home: DataHome, tmp_path: Path) -> None:
    nothing = Gateway(routes_file=str(tmp_path / "routes.json"))
    with pytest.raises(ValueError, match="maitre deploy local"):
        dg.materialize([observed_traffic], resources={"home": home, "gateway": nothing})


def test_a_new_placement_keeps_the_promise_of_the_newest_plan(tmp_path: Path) -> None:
    home = DataHome(root=str(tmp_path / "home"))
    assert sensor._replace_config(home)["ops"]["placement_plan"]["config"] == {
        "change_running": True
    }
    home.write_plan(PlacementPlan("p", (), evidence=Evidence(Promise(0.02, 400.0))))
    assert sensor._replace_config(home)["ops"]["placement_plan"]["config"] == {
        "change_running": True,
        "risk": 0.02,
        "ttft_slo_ms": 400.0,
    }
