"""Which run is the one of a tuning request's attempt, when several launchers have made some."""

import dagster as dg

from maitre.requests.request import RequestError
from maitre.requests.store import RequestStore
from maitre.workers.launch.run_tags import ATTEMPT_TAG, REQUEST_TAG

_RE_EXECUTION_TAG = "dagster/parent_run_id"


def is_re_execution(run: dg.DagsterRun) -> bool:
    """Whether somebody has asked Dagster for the run of another one once more."""
    return _RE_EXECUTION_TAG in run.tags


def why_not_launched(store: RequestStore, run: dg.DagsterRun) -> str | None:
    """Why the run must not be launched: another is that of its request's attempt; or `None`.

    A run that is launched is the one of the attempt from now on. A re-execution has its parent's
    tags, but nobody holds a request for it: it is launched as any run that is started by hand, and
    the request does not follow it. So is one of a request that the queue does not know.
    """
    request_id, attempt = run.tags.get(REQUEST_TAG), run.tags.get(ATTEMPT_TAG, "")
    if not request_id or not attempt.isdecimal() or is_re_execution(run):
        return None
    if store.bind_run(request_id, attempt=int(attempt), run_id=run.run_id):
        return None
    try:
        request = store.get(request_id)
    except RequestError:
        return None
    if request.attempt != int(attempt):
        return f"attempt {attempt} of request {request_id} is over: it is at {request.attempt}"
    if request.state.is_final:
        return f"request {request_id} is {request.state} already"
    return f"attempt {attempt} of request {request_id} is run {request.run_id}"
