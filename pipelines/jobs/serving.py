"""Jobs and schedules of the serving half."""

import dagster as dg

from assets.serving.trace_fanout_job import simulate_traces
from maitre.settings import Settings
from pipelines.automation import ON_REQUEST
from pipelines.step_executor import step_executor

_ON_REQUEST = dg.AssetSelection.assets(*ON_REQUEST)

DEPLOYMENTS = dg.AssetSelection.assets("vllm_deployments").upstream() - _ON_REQUEST
"""The rendered deployments and what they are made from."""

serving = dg.define_asset_job(
    "serving",
    selection=DEPLOYMENTS,
    description="Make the traces, the capacity model, the placement plan and the deployments.",
)
refresh_maxpack = dg.define_asset_job(
    "refresh_maxpack",
    selection=dg.AssetSelection.assets("maxpack_model").upstream() - _ON_REQUEST,
    description="Simulate new traces and train a challenger.",
)
place = dg.define_asset_job(
    "place",
    selection=dg.AssetSelection.assets(
        "adapter_file", "profile_files", "adapter_catalogue", "placement_plan", "vllm_deployments"
    ),
    description="Place the catalogue with the champion and render the deployments.",
)
take_measurements = dg.define_asset_job(
    "take_measurements",
    selection=dg.AssetSelection.assets("vllm_measurements", "twin_verdict")
    | dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("server_profiles"), "twin_fidelity")),
    description="Import what `maitre twin measure` wrote and compare the profile with it.",
)
deploy_plan = dg.define_asset_job(
    "deploy_plan",
    selection=dg.AssetSelection.assets("running_servers"),
    description="Apply the placement plan to the servers of this machine or of a cluster.",
)
replace_on_traffic = dg.define_asset_job(
    "replace_on_traffic",
    selection=dg.AssetSelection.assets("observed_traffic", "placement_plan", "vllm_deployments"),
    description="Adapt the running plan, with few moves, to the traffic that is observed.",
)


@dg.schedule(job=refresh_maxpack, cron_schedule="0 3 * * 0")
def weekly_maxpack_refresh(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Simulate new configurations each week: the date is the seed of their design."""
    seed = int(context.scheduled_execution_time.strftime("%Y%m%d"))
    return dg.RunRequest(run_config={"ops": {"twin_traces": {"config": {"seed": seed}}}})


daily_placement = dg.ScheduleDefinition(
    name="daily_placement", job=place, cron_schedule="0 5 * * *"
)


def fan_out(settings: Settings) -> dg.Definitions:
    """Return the job `simulate_traces`; the settings say where its steps are executed."""
    return dg.Definitions(jobs=[simulate_traces(step_executor(settings))])
