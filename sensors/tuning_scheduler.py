"""`tuning_scheduler`: turns tuning requests into runs on the workers that the policy chooses."""

import dagster as dg

from assets.tuned_prompts import TASKS
from resources.request_queue import RequestQueue, RequestState, TuningRequest
from resources.request_queue.request import OPEN_STATES
from resources.request_queue.store import RequestStore
from resources.settings import Settings
from resources.warm_pool.pool import pool_of
from resources.warm_pool.scheduler import HOLD_S, StartRun, now_utc, run_config, schedule
from resources.warm_pool.tags import (
    ATTEMPT_TAG,
    DEADLINE_TAG,
    REQUEST_TAG,
    TENANT_TAG,
    WORKERS_TAG,
)

_FATE = {
    dg.DagsterRunStatus.SUCCESS: RequestState.DONE,
    dg.DagsterRunStatus.FAILURE: RequestState.FAILED,
    dg.DagsterRunStatus.CANCELED: RequestState.CANCELLED,
}


@dg.sensor(
    job_name="tune",
    # The daemon looks at its sensors every 5 s. An interval of 5 s would often be not quite over
    # at that look, and this one would be asked every 10 s.
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def tuning_scheduler(
    context: dg.SensorEvaluationContext, request_queue: RequestQueue
) -> dg.SensorResult:
    """Note what became of the runs; then let the policy start, stop and scale.

    Without warm workers every queued request becomes a run at once, the earliest deadline first. A
    request is handed over to one round of one daemon, and its run key is that of the attempt: it is
    started once, however many daemons ask.
    """
    store = request_queue.store()
    settings = Settings.read()
    now = now_utc()
    waiting = [
        request
        for request in store.find(OPEN_STATES, limit=1000)
        if not note_run(context.instance, store, request)
    ]
    pool = pool_of(settings)
    if pool is None:
        starts = [
            StartRun(request, lookup=request.lookup)
            for request in waiting
            if store.take(request.request_id, owner="sensor", now=now, hold_s=HOLD_S)
        ]
    else:
        done = schedule(settings, context.instance, pool, waiting, now)
        starts = done.starts
        for note in done.notes:
            context.log.info(note)
    tasks = sorted({start.request.task for start in starts})
    return dg.SensorResult(
        run_requests=[_run_request(start) for start in starts],
        dynamic_partitions_requests=[TASKS.build_add_request(tasks)] if tasks else [],
    )


def note_run(instance: dg.DagsterInstance, store: RequestStore, request: TuningRequest) -> bool:
    """Write the state of the request's run to the queue; whether there is such a run."""
    tags = {REQUEST_TAG: request.request_id, ATTEMPT_TAG: str(request.attempt)}
    runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
    if not runs:
        return False
    [run] = runs
    state = _FATE.get(run.status, RequestState.LAUNCHED)
    if state is not request.state:
        message = f"run {run.run_id}: {run.status.value.lower()}"
        store.move(
            request.request_id,
            expected=request.state,
            state=state,
            run_id=run.run_id,
            message=message,
        )
    if request.cancel_requested and not state.is_final:
        instance.run_coordinator.cancel_run(run.run_id)
    return True


def _run_request(start: StartRun) -> dg.RunRequest:
    request = start.request
    tags = {
        REQUEST_TAG: request.request_id,
        ATTEMPT_TAG: str(request.attempt),
        DEADLINE_TAG: request.deadline_at.isoformat(),
        TENANT_TAG: request.tenant,
    }
    if start.worker:
        tags[WORKERS_TAG] = start.worker
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=request.task,
        tags=tags,
        run_config=run_config(start),
    )
