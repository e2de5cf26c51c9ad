"""`placement_plan`: which server holds which adapters, on the fewest GPUs."""

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.serving.adapter_catalogue import adapter_catalogue
from assets.serving.maxpack_model import maxpack_model
from assets.serving.measured_profiles import chosen_profile
from assets.serving.observed_traffic import at_observed_rates, observed_traffic
from assets.serving.twin_verdict import twin_verdict
from assets.shared.check_text import description
from assets.shared.figures import bars, inline
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre import fingerprints
from maitre.tracking.maxpack import champion_at
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking, run_links

if TYPE_CHECKING:
    from maitre.placement.plan import PlacementPlan

CHECKED_HOUR_S = 3600.0


class PlacementConfig(dg.Config):
    """The plan's promise: the risk of an unhealthy server, and the objective."""

    risk: float = 0.01
    ttft_slo_ms: float = Field(
        default=10_000.0,
        description="Objective for the 99th percentile of the time to first token, of each "
        "server and adapter. The champion's traces are judged at this objective, and a model is "
        "fitted to them.",
    )
    seed: int = 0
    change_running: bool = Field(
        default=False,
        description="Change the served plan with few moves instead of making a new plan. Where "
        "nothing is served, change the newest plan.",
    )
    traffic_max_age_s: float = Field(
        default=86_400.0,
        description="Ignore observed rates older than this (seconds); plan for the catalogue's.",
    )


@dg.asset(
    deps=[adapter_catalogue, maxpack_model, observed_traffic, twin_verdict],
    group_name="serving",
    kinds={"json"},
    owners=OWNERS,
    code_version="2",
    pool="simulation",
    # The schedule `daily_placement` makes one per day.
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=7), warn_window=timedelta(days=2)
    ),
)
@retry_outages
def placement_plan(
    context: dg.AssetExecutionContext,
    config: PlacementConfig,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
    gateway: Gateway,
) -> dg.MaterializeResult:
    """Place the catalogue with the champion; check every server in the twin and repair the plan.

    Plan for the rates that `observed_traffic` has measured, else for the catalogue's.
    """
    from maitre.maxpack.card import MaxpackError
    from maitre.placement.place import place
    from maitre.placement.promise import Promise
    from maitre.placement.replan import MoveBudget, replan_and_check
    from maitre.placement.settings import PlacementSettings

    promise = Promise(config.risk, config.ttft_slo_ms)
    champion = champion_at(mlflow.store(), promise.ttft_slo_ms, home.traces)
    if champion is None:
        raise MaxpackError("no maxpack model is champion yet; materialise maxpack_model first")
    model, version = champion
    profile = chosen_profile(home, inputs.profile)
    catalogue, observed = at_observed_rates(
        home,
        home.catalogue(),
        time.time(),
        config.traffic_max_age_s,
    )
    with mlflow.run(context) as run:
        if config.change_running:
            running = plan_in_service(home, gateway, profile.name)
            if not running.servers:
                running = home.plan()
            settings = PlacementSettings(promise, baselines=False, seed=config.seed)
            plan = replan_and_check(
                running, catalogue, profile, settings, MoveBudget(), model=model
            )
        else:
            plan = place(catalogue, profile, model=model, promise=promise, seed=config.seed)
        document = plan.to_json()
        home.write_planned_catalogue(catalogue)
        home.write_plan(plan)
        gpus = {"maitre": plan.gpus, "lower bound": plan.lower_bound_gpus, **plan.baselines}
        context.log.info(", ".join(f"{name} {n} GPUs" for name, n in gpus.items()))
        figure = bars(gpus, title=f"GPUs for {len(catalogue)} adapters", x="GPUs")
        run.params(config.model_dump() | {"maxpack_version": version.version})
        run.metrics({f"gpus_{name.replace(' ', '_')}": n for name, n in gpus.items()})
        run.picture(figure, "gpus.png")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprints.of_bytes(document.encode())),
            metadata={
                "gpus": plan.gpus,
                "lower_bound_gpus": plan.lower_bound_gpus,
                **{f"gpus_{name}": n for name, n in plan.baselines.items()},
                "adapters": len(catalogue),
                "rates": "observed" if observed else "catalogue",
                "comparison": inline(figure, "GPUs by method"),
                "maxpack_version": version.version,
                **run_links(run),
            },
        )


def plan_in_service(home: DataHome, gateway: Gateway, profile: str) -> "PlacementPlan":
    """Return the plan that is served now, without servers where it is not known.

    A server's options are those it was started with here, else those of the plan last applied to a
    cluster, else those of the newest plan. A route file that somebody wrote by hand has no options.
    It promises what the plan last applied promises, else what the newest plan does.
    """
    from maitre.placement.evidence import Evidence
    from maitre.serving.served import served_plan
    from maitre.twin.limits import VllmLimits

    configs: dict[str, VllmLimits] = {}
    promise = None
    newest = home.plan() if home.has_plan() else None
    for planned in (newest, home.deployed_plan()):
        if planned is not None:
            configs |= {server.name: server.config for server in planned.servers}
            promise = planned.evidence.promise or promise
    served = served_plan(gateway.routes(), configs | gateway.configs(), profile)
    return replace(served, evidence=Evidence(promise=promise))


@dg.asset_check(asset=placement_plan, blocking=True)
def no_server_starves(home: DataHome, inputs: Inputs) -> dg.AssetCheckResult:
    """Simulate an hour of every server in the twin, with a seed that placement has not used.

    A server is healthy by the objective that the plan itself promises.
    """
    from maitre.placement.simulate_plan import check_plan

    plan = home.plan()
    check = check_plan(
        plan,
        chosen_profile(home, inputs.profile),
        home.planned_catalogue(),
        seed=PlacementConfig().seed + 1_000_003,
        duration_s=CHECKED_HOUR_S,
        rule=plan.promise.rule,
    )
    return dg.AssetCheckResult(
        passed=check.passed,
        description=description(
            check.passed,
            "; ".join(f"{s.server}: {s.health.reason}" for s in check.unhealthy[:5])
            or f"all {len(check.servers)} servers stay healthy",
            "materialise placement_plan with a smaller risk, or refresh_maxpack before it",
        ),
        metadata={
            "servers": len(check.servers),
            "unhealthy": [server.server for server in check.unhealthy],
        },
    )
