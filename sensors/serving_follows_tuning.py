"""`serving_follows_tuning`: the job `everything` of the tuning half is followed by `serving`."""

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )


def serving_follows_tuning(serving: "UnresolvedAssetJobDefinition") -> dg.SensorDefinition:
    """A sensor that requests `serving` when the tuning half of `everything` has succeeded.

    A job cannot span two code locations; this joins them.
    """

    @dg.run_status_sensor(
        name="serving_follows_tuning",
        description="Runs the job `serving` after each successful run of `everything`.",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[dg.JobSelector("pipelines.tuning", job_name="everything")],
        request_job=serving,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def follow(context: dg.RunStatusSensorContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=context.dagster_run.run_id)

    return follow
