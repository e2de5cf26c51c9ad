"""The code location of the serving half: measurements, twin, maxpack, placement, deployments."""

import dagster as dg

from assets.serving.adapter_catalogue import adapter_catalogue
from assets.serving.maxpack_model import champion_predicts_well, maxpack_model
from assets.serving.observed_traffic import observed_traffic
from assets.serving.placement_plan import no_server_starves, placement_plan
from assets.serving.server_profiles import server_profiles, twin_fidelity
from assets.serving.trace_batches import trace_batches
from assets.serving.trace_shares import simulate_traces
from assets.serving.twin_traces import twin_traces
from assets.serving.twin_verdict import twin_verdict
from assets.serving.vllm_deployments import manifests_are_valid, vllm_deployments
from assets.serving.vllm_measurements import vllm_measurements
from assets.shared.inputs import adapter_file, profile_files
from maitre.settings import Settings
from pipelines.jobs import LOGGERS
from pipelines.step_executor import step_executor
from pipelines.wiring import resources
from sensors.serving_follows_tuning import serving_follows_tuning
from sensors.traffic_drift import traffic_drift

INPUTS = [adapter_file, profile_files]
MODEL = [twin_verdict, server_profiles, twin_traces, maxpack_model]
PLACEMENT = [adapter_catalogue, placement_plan, vllm_deployments]
# What comes from servers that run: everything else is made without one.
OBSERVED = [vllm_measurements, observed_traffic]

serving = dg.define_asset_job(
    "serving",
    selection=dg.AssetSelection.assets(*INPUTS, *MODEL, *PLACEMENT),
    description="Traces, capacity model, placement plan and deployments.",
)
refresh_maxpack = dg.define_asset_job(
    "refresh_maxpack",
    selection=dg.AssetSelection.assets(profile_files, *MODEL),
    description="Simulate new traces and train a challenger.",
)
place = dg.define_asset_job(
    "place",
    selection=dg.AssetSelection.assets(*INPUTS, *PLACEMENT),
    description="Place the catalogue with the champion and render the deployments.",
)
take_measurements = dg.define_asset_job(
    "take_measurements",
    selection=dg.AssetSelection.assets(vllm_measurements, twin_verdict)
    | dg.AssetSelection.checks(twin_fidelity),
    description="Take over what `maitre twin measure` wrote and hold the profile against it.",
)
replace_on_traffic = dg.define_asset_job(
    "replace_on_traffic",
    selection=dg.AssetSelection.assets(observed_traffic, placement_plan, vllm_deployments),
    description="Change the running plan, with few moves, to one for the traffic that is seen.",
)


@dg.schedule(job=refresh_maxpack, cron_schedule="0 3 * * 0")
def weekly_maxpack_refresh(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """New configurations each week: the day is the seed of their design."""
    seed = int(context.scheduled_execution_time.strftime("%Y%m%d"))
    return dg.RunRequest(run_config={"ops": {"twin_traces": {"config": {"seed": seed}}}})


defs = dg.Definitions(
    assets=[*INPUTS, *MODEL, trace_batches, *PLACEMENT, *OBSERVED],
    asset_checks=[champion_predicts_well, no_server_starves, manifests_are_valid, twin_fidelity],
    jobs=[
        serving,
        refresh_maxpack,
        place,
        take_measurements,
        replace_on_traffic,
        simulate_traces(step_executor(Settings.read())),
    ],
    schedules=[
        weekly_maxpack_refresh,
        dg.ScheduleDefinition(name="daily_placement", job=place, cron_schedule="0 5 * * *"),
    ],
    sensors=[serving_follows_tuning(serving), traffic_drift(replace_on_traffic)],
    resources=resources(Settings.read()),
    loggers=LOGGERS,
)
