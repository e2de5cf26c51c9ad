"""The states of requests: the queue follows the states of their runs in Dagster."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRecord,
    RunsFilter,
)

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.workers.launch.attempts import is_re_execution
from maitre.workers.launch.run_tags import ATTEMPT_TAG, REQUEST_TAG

_STATE_OF_ENDED_RUN = {
    DagsterRunStatus.SUCCESS: RequestState.DONE,
    DagsterRunStatus.FAILURE: RequestState.FAILED,
    DagsterRunStatus.CANCELED: RequestState.CANCELLED,
}
_ASKED_TOGETHER = 200
_LONGEST_REASON = 300


def without_run(
    instance: DagsterInstance,
    store: RequestStore,
    requests: Sequence[TuningRequest],
    queued: set[TuningRequest] | None = None,
) -> list[TuningRequest]:
    """Write the state of each request's run to the queue; return the requests without a run.

    `queued` are the requests that earlier rounds of the tick have found queued without a run; this
    function adds to them. A request is taken before it gets a run: as long as its row has not
    changed, it has no run, and Dagster need not be asked.
    """
    queued = set() if queued is None else queued
    runs = _runs_of(instance, [request for request in requests if request not in queued])
    found: list[TuningRequest] = []
    for request in requests:
        record = runs.get(request.request_id)
        if record is not None:
            _write_run_state(instance, store, request, record)
        elif request.run_id is not None:
            store.move(
                request.request_id,
                expected=request.state,
                state=RequestState.CANCELLED if request.cancel_requested else RequestState.FAILED,
                message=f"its run {request.run_id} was deleted",
            )
        elif request.cancel_requested and store.end_cancelled(
            request.request_id, now=datetime.now(UTC)
        ):
            continue
        else:
            found.append(request)
            if request.state is RequestState.QUEUED:
                queued.add(request)
    return found


def _runs_of(instance: DagsterInstance, requests: Sequence[TuningRequest]) -> dict[str, RunRecord]:
    """Return each request's run: the one that is bound to it, else the newest of its attempt."""
    found: dict[str, RunRecord] = {}
    launched = {request.run_id: request.request_id for request in requests if request.run_id}
    for run_ids in _portions(list(launched)):
        for record in instance.get_run_records(RunsFilter(run_ids=run_ids)):
            found[launched[record.dagster_run.run_id]] = record
    attempts = {r.request_id: str(r.attempt) for r in requests if not r.run_id}
    for ids in _portions(list(attempts)):
        for record in instance.get_run_records(RunsFilter(tags={REQUEST_TAG: ids})):
            run = record.dagster_run
            request_id = run.tags[REQUEST_TAG]
            if run.tags.get(ATTEMPT_TAG) == attempts[request_id] and not is_re_execution(run):
                found.setdefault(request_id, record)
    return found


def _portions(ids: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(ids), _ASKED_TOGETHER):
        yield ids[begin : begin + _ASKED_TOGETHER]


def _write_run_state(
    instance: DagsterInstance,
    store: RequestStore,
    request: TuningRequest,
    record: RunRecord,
) -> None:
    run = record.dagster_run
    if not store.bind_run(request.request_id, attempt=request.attempt, run_id=run.run_id):
        # Another run was launched for it; the next round sees that run.
        return
    state = _STATE_OF_ENDED_RUN.get(run.status, RequestState.LAUNCHED)
    if state is not request.state:
        store.move(
            request.request_id,
            expected=request.state,
            state=state,
            # The time when the run ended, not the time when this was seen.
            now=datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
            message=f"run {run.run_id}: {run.status.value.lower()}{_reason(instance, run)}",
        )
    # Only once: a second cancellation would restart the time that a run has to end.
    is_canceling = run.status is DagsterRunStatus.CANCELING
    if request.cancel_requested and not state.is_final and not is_canceling:
        instance.run_coordinator.cancel_run(run.run_id)


def _reason(instance: DagsterInstance, run: DagsterRun) -> str:
    """Return `: ` and the first line of the error that ended a failed run; else nothing."""
    if run.status is not DagsterRunStatus.FAILURE:
        return ""
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run.run_id, of_type=kind, limit=1).records:
            event = record.event_log_entry.dagster_event
            error = getattr(event.event_specific_data, "error", None) if event else None
            while error is not None and error.cause is not None:
                error = error.cause
            lines = (error.message if error else (event.message or "") if event else "").split("\n")
            if lines[0].strip():
                return f": {lines[0].strip()[:_LONGEST_REASON]}"
    return ""
