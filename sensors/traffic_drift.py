"""`traffic_drift`: requests a new placement when a server is likely to starve."""

import json
import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.serving.measured_profiles import chosen_profile
from assets.serving.observed_traffic import WINDOW_S
from assets.serving.placement_plan import plan_in_service
from assets.serving.traffic_samples import store_sample
from maitre.errors import UserError
from maitre.placement.drift import (
    DriftLimits,
    DriftState,
    Observed,
    expected_rates_rps,
    weigh,
)
from maitre.serving.observe import TrafficSample, request_counts, starving_servers
from maitre.tracking.maxpack import champion_at
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking

if TYPE_CHECKING:
    from maitre.maxpack.model import MaxpackModel

LIMITS = DriftLimits()
LEAST_SPAN_S = 120.0
"""Rates over a shorter time are not used."""


@dg.sensor(
    description="Request a new placement when the model says that a server is likely to starve.",
    job_name="replace_on_traffic",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def traffic_drift(
    context: dg.SensorEvaluationContext,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
    gateway: Gateway,
) -> dg.SensorResult:
    """Sample the servers; request `replace_on_traffic` when a server is likely to starve."""
    return watch_once(context.cursor, home, inputs, mlflow, gateway, time.time())


def watch_once(
    cursor: str | None,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
    gateway: Gateway,
    now_s: float,
    limits: DriftLimits = LIMITS,
) -> dg.SensorResult:
    """Store one sample, compute the servers' risks, and request a run or say why not."""
    state = DriftState.from_dict(json.loads(cursor)) if cursor else DriftState()
    if not gateway.routes().servers:
        return _skip_result(f"nothing is served: {gateway.routes_file} routes to no server", state)
    seen = store_sample(home, gateway.sample(now_s), WINDOW_S)
    if blind := _why_blind(seen, home):
        return _skip_result(blind, state)
    try:
        verdict = weigh(state, observed(seen, home, inputs, mlflow, gateway), now_s, limits)
    except UserError as error:
        # A champion of another profile, or a catalogue that the profile does not cover.
        return _skip_result(
            f"the plan's risks cannot be computed: {' '.join(str(error).split())}", state
        )
    if not verdict.ask:
        return _skip_result(verdict.reason, verdict.state)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"traffic-{verdict.state.asked_of_plan}-{now_s:.0f}",
                run_config=_replace_config(home),
                tags={"maitre/why": verdict.reason[:200]},
            )
        ],
        cursor=json.dumps(verdict.state.to_dict()),
    )


def _replace_config(home: DataHome) -> dict[str, Any]:
    """Return the configuration of a run that changes the served plan, with few moves.

    The new plan keeps the promise of the newest one: its risk and its objective.
    """
    config: dict[str, Any] = {"change_running": True}
    if home.has_plan() and (promised := home.plan().evidence.promise):
        config |= {"risk": promised.risk, "ttft_slo_ms": promised.ttft_slo_ms}
    return {"ops": {"placement_plan": {"config": config}}}


def observed(
    seen: list[TrafficSample],
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
    gateway: Gateway,
) -> Observed:
    """Return what is served under which load, read from the data home, the gateway and MLflow."""

    def model_at(ttft_slo_ms: float) -> "MaxpackModel | None":
        champion = champion_at(mlflow.store(), ttft_slo_ms, home.traces)
        return champion[0] if champion else None

    profile = chosen_profile(home, inputs.profile)
    catalogue = home.catalogue()
    return Observed(
        served=plan_in_service(home, gateway, profile.name),
        newest=home.plan() if home.has_plan() else None,
        catalogue=catalogue.with_rates(expected_rates_rps(catalogue, *request_counts(seen))),
        starving=starving_servers(seen[0], seen[-1]),
        profile=profile,
        model_at=model_at,
    )


def _why_blind(seen: list[TrafficSample], home: DataHome) -> str:
    """Return why these samples do not suffice; an empty text where they do."""
    newest_look = seen[-1]
    if newest_look.gateway:
        return f"rates are not known: {newest_look.gateway}"
    if not newest_look.servers:
        return f"no server answers: {'; '.join(newest_look.unseen.values())}"
    if not home.has_catalogue():
        return "there is no catalogue to compare the traffic with; materialise adapter_catalogue"
    requests, span_s = request_counts(seen)
    if span_s < LEAST_SPAN_S:
        return f"the samples cover {span_s:.0f} s: expected at least {LEAST_SPAN_S:.0f} s"
    if not any(requests.values()):
        return f"no request came in {span_s:.0f} s"
    return ""


def _skip_result(reason: str, state: DriftState) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=json.dumps(state.to_dict()))
