"""`tuning_requests`: turns rows of the request queue into tuning runs, and notes their fate."""

import dagster as dg

from assets.tuned_prompts import TASKS
from resources.request_queue import RequestQueue, RequestState, TuningRequest

REQUEST_TAG = "maitre/request"
DEADLINE_TAG = "maitre/deadline"
TENANT_TAG = "maitre/tenant"

_FATE = {
    dg.DagsterRunStatus.SUCCESS: RequestState.DONE,
    dg.DagsterRunStatus.FAILURE: RequestState.FAILED,
    dg.DagsterRunStatus.CANCELED: RequestState.CANCELLED,
}


@dg.sensor(
    job_name="tune",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def tuning_requests(
    context: dg.SensorEvaluationContext, request_queue: RequestQueue
) -> dg.SensorResult:
    """Start a run for each queued request, the earliest deadline first; record ended ones.

    The request's id is the run key: Dagster starts one run for it, however often this sensor, or a
    second daemon, asks. A row counts as launched only once its run exists, so that a daemon that
    dies between asking and launching loses nothing.
    """
    open_states = [RequestState.QUEUED, RequestState.LAUNCHED]
    waiting = [
        request
        for request in request_queue.find(open_states, limit=200)
        if not _note_run(context.instance, request_queue, request)
    ]
    tasks = sorted({request.task for request in waiting})
    return dg.SensorResult(
        run_requests=[_run_request(request) for request in waiting],
        dynamic_partitions_requests=[TASKS.build_add_request(tasks)] if tasks else [],
    )


def _run_request(request: TuningRequest) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=request.request_id,
        partition_key=request.task,
        tags={
            REQUEST_TAG: request.request_id,
            DEADLINE_TAG: request.deadline_at.isoformat(),
            TENANT_TAG: request.tenant,
        },
    )


def _note_run(instance: dg.DagsterInstance, queue: RequestQueue, request: TuningRequest) -> bool:
    """Write the state of the request's run to the queue; whether there is such a run."""
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request.request_id}), limit=1)
    if not runs:
        return False
    state = _FATE.get(runs[0].status, RequestState.LAUNCHED)
    if state != request.state:
        message = f"run {runs[0].run_id}: {runs[0].status.value.lower()}"
        queue.move(
            request.request_id,
            expected=request.state,
            state=state,
            run_id=runs[0].run_id,
            message=message,
        )
    return True
