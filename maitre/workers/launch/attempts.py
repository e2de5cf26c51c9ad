"""At most one run for an attempt of a request: which run that is, and which are not launched."""

import dagster as dg

from maitre.requests.request import RequestError
from maitre.requests.store import RequestStore
from maitre.workers.launch.run_tags import ATTEMPT_TAG, REQUEST_TAG

_RE_EXECUTION_TAG = "dagster/parent_run_id"


def is_re_execution(run: dg.DagsterRun) -> bool:
    """Return whether somebody has asked Dagster to execute an earlier run again."""
    return _RE_EXECUTION_TAG in run.tags


def why_not_launched(store: RequestStore, run: dg.DagsterRun) -> str | None:
    """Return why the run must not be launched; `None` when it may be.

    At most one run is launched for an attempt of a request: this function binds the first one to
    it. A re-execution has the tags of its parent, but the request does not follow it: it is
    launched like a run that somebody starts by hand. So is a run for a request that the queue does
    not know.
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
