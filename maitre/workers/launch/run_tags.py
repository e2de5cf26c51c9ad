"""The tags and the configuration of a request's run in Dagster."""

from collections.abc import Sequence
from typing import Any

from maitre.requests.request import TuningRequest
from maitre.tenants import TENANT_TAG

BASE_MODEL_TAG = "maitre/base-model"
"""The base model of the workers that may take the run."""

WORKERS_TAG = "maitre/workers"
"""The workers that the policy chose, comma-separated: all of them execute the run together."""

WORKER_TAG = "maitre/worker"
"""The workers that have taken the run; the first one executes it."""

REQUEST_TAG = "maitre/request"
"""The tuning request that the run is for; `ATTEMPT_TAG` says which attempt of it."""

ATTEMPT_TAG = "maitre/attempt"
DEADLINE_TAG = "maitre/deadline"


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
