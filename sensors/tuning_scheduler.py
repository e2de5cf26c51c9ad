"""`tuning_scheduler`: turns tuning requests into runs on the workers that the policy chooses."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from assets.tuning.tuned_prompts import TASKS
from maitre.requests import RequestState, TuningRequest
from maitre.requests.request import OPEN_STATES
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.run_tags import (
    ATTEMPT_TAG,
    REQUEST_TAG,
    config_of,
    is_re_execution,
    tags_of,
)
from maitre.workers.pool.factory import pool_of
from maitre.workers.running_services import with_running_services
from maitre.workers.scheduling.cluster_file import unplanned
from maitre.workers.scheduling.round import HOLD_S, StartRun, now_utc
from maitre.workers.scheduling.tick import Tick
from resources.request_queue import RequestQueue

_FATE = {
    dg.DagsterRunStatus.SUCCESS: RequestState.DONE,
    dg.DagsterRunStatus.FAILURE: RequestState.FAILED,
    dg.DagsterRunStatus.CANCELED: RequestState.CANCELLED,
}
_ASKED_TOGETHER = 200


@dg.sensor(
    job_name="tune",
    # The daemon looks at its sensors every 5 s. An interval of 5 s would often be not quite over
    # at that look, and this one would be asked every 10 s.
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def tuning_scheduler(
    context: dg.SensorEvaluationContext,
    request_queue: RequestQueue,
    settings: dg.ResourceParam[Settings],
) -> dg.SensorResult:
    """Note what became of the runs; then let the policy start, stop and scale, for a few seconds.

    Without warm workers every queued request becomes a run at once, the earliest deadline first. A
    request is handed over to one round of one daemon, and its run key is that of the attempt: it is
    started once, however many daemons ask.
    """
    store = request_queue.store()
    queued: set[TuningRequest] = set()

    def waiting() -> list[TuningRequest]:
        requests = store.find(OPEN_STATES, limit=1000)
        return without_run(context.instance, store, requests, queued)

    pool = pool_of(settings)
    if pool is None:
        now = now_utc()
        starts = [
            StartRun(request, lookup=request.lookup)
            for request in waiting()
            if store.take(request.request_id, owner="sensor", now=now, hold_s=HOLD_S)
        ]
    else:
        for note in unplanned(settings, store.find([RequestState.QUEUED])):
            context.log.warning(note)
        starts = Tick(
            with_running_services(settings), context.instance, pool, waiting, context.log.info
        ).starts()
    tasks = sorted({start.request.task for start in starts})
    return dg.SensorResult(
        run_requests=[_run_request(start) for start in starts],
        dynamic_partitions_requests=[TASKS.build_add_request(tasks)] if tasks else [],
    )


def without_run(
    instance: dg.DagsterInstance,
    store: RequestStore,
    requests: Sequence[TuningRequest],
    queued: set[TuningRequest] | None = None,
) -> list[TuningRequest]:
    """Write the state of each request's run to the queue; the requests that have no run.

    `queued` is what a tick's earlier rounds have found to be queued without a run; what is found
    now is added. A request is taken before it gets a run, so as long as nothing of it has changed
    there is none to ask for.
    """
    queued = set() if queued is None else queued
    runs = _runs(instance, [request for request in requests if request not in queued])
    found: list[TuningRequest] = []
    for request in requests:
        record = runs.get(request.request_id)
        if record is not None:
            _note(instance, store, request, record)
        elif request.run_id is not None:
            store.move(
                request.request_id,
                expected=request.state,
                state=RequestState.CANCELLED if request.cancel_requested else RequestState.FAILED,
                message=f"its run {request.run_id} was deleted",
            )
        elif request.cancel_requested and store.end_cancelled(request.request_id, now=now_utc()):
            continue
        else:
            found.append(request)
            if request.state is RequestState.QUEUED:
                queued.add(request)
    return found


def _runs(
    instance: dg.DagsterInstance, requests: Sequence[TuningRequest]
) -> dict[str, dg.RunRecord]:
    """The run of each request that has one; before any is launched the newest of its attempt."""
    found: dict[str, dg.RunRecord] = {}
    launched = {request.run_id: request.request_id for request in requests if request.run_id}
    for run_ids in _portions(list(launched)):
        for record in instance.get_run_records(dg.RunsFilter(run_ids=run_ids)):
            found[launched[record.dagster_run.run_id]] = record
    attempts = {r.request_id: str(r.attempt) for r in requests if not r.run_id}
    for ids in _portions(list(attempts)):
        for record in instance.get_run_records(dg.RunsFilter(tags={REQUEST_TAG: ids})):
            run = record.dagster_run
            request_id = run.tags[REQUEST_TAG]
            if run.tags.get(ATTEMPT_TAG) == attempts[request_id] and not is_re_execution(run):
                found.setdefault(request_id, record)
    return found


def _portions(ids: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(ids), _ASKED_TOGETHER):
        yield ids[begin : begin + _ASKED_TOGETHER]


def _note(
    instance: dg.DagsterInstance,
    store: RequestStore,
    request: TuningRequest,
    record: dg.RunRecord,
) -> None:
    run = record.dagster_run
    if not store.bind_run(request.request_id, attempt=request.attempt, run_id=run.run_id):
        # Another run of it was launched since, which the next round sees.
        return
    state = _FATE.get(run.status, RequestState.LAUNCHED)
    if state is not request.state:
        store.move(
            request.request_id,
            expected=request.state,
            state=state,
            # When it ended, not when that was seen.
            now=datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
            message=f"run {run.run_id}: {run.status.value.lower()}",
        )
    # Once is enough: a second one would begin the time anew that a run is given to end.
    is_canceling = run.status is dg.DagsterRunStatus.CANCELING
    if request.cancel_requested and not state.is_final and not is_canceling:
        instance.run_coordinator.cancel_run(run.run_id)


def _run_request(start: StartRun) -> dg.RunRequest:
    request = start.request
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=request.task,
        tags=tags_of(request, start.workers),
        run_config=config_of(request, start.lookup),
    )
