"""A request's run in Dagster: its tags, its configuration, and which run is the request's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maitre.requests.request import RequestError, TuningRequest
from maitre.requests.store import RequestStore

if TYPE_CHECKING:
    # To import Dagster takes seconds, and the command line needs the tags without it.
    import dagster as dg

BASE_MODEL_TAG = "maitre/base-model"
"""The base model whose workers may take the run."""

WORKERS_TAG = "maitre/workers"
"""The workers that the policy chose, comma-separated: the run is for all of them together."""

WORKER_TAG = "maitre/worker"
"""The workers that have taken the run; the first one executes it."""

REQUEST_TAG = "maitre/request"
"""The tuning request that the run is for; `ATTEMPT_TAG` says which attempt of it."""

ATTEMPT_TAG = "maitre/attempt"
DEADLINE_TAG = "maitre/deadline"
TENANT_TAG = "maitre/tenant"
_RE_EXECUTION_TAG = "dagster/parent_run_id"


def tags_of(request: TuningRequest, workers: Sequence[str]) -> dict[str, str]:
    """Return the tags of the request's run; `workers` are those that the policy chose, if any."""
    tags = {
        REQUEST_TAG: request.request_id,
        ATTEMPT_TAG: str(request.attempt),
        DEADLINE_TAG: request.deadline_at.isoformat(),
        TENANT_TAG: request.tenant,
    }
    if request.base_model:
        tags[BASE_MODEL_TAG] = request.base_model
    if workers:
        tags[WORKERS_TAG] = ",".join(workers)
    return tags


def config_of(request: TuningRequest, lookup: bool) -> dict[str, Any]:
    """Return the run configuration of the request's run."""
    values = {"max_iterations": request.max_iterations, "lookup": lookup}
    return {"ops": {"tuned_prompts": {"config": values}}}


def is_re_execution(run: "dg.DagsterRun") -> bool:
    """Return whether the run is a re-execution, which somebody has asked Dagster for."""
    return _RE_EXECUTION_TAG in run.tags


def why_not_launched(store: RequestStore, run: "dg.DagsterRun") -> str | None:
    """Return why the run must not be launched; `None` when it may be.

    At most one run is launched for an attempt of a request: this binds the first one to it. A
    re-execution has the tags of its parent, but nobody holds a request for it: it is launched like
    a run that somebody starts by hand, and the request does not follow it. So is a run for a
    request that the queue does not know.
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
