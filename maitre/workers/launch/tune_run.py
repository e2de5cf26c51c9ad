"""What a request's run of the job `tune` is given, whoever starts it."""

from collections.abc import Sequence
from typing import Any

from maitre.requests.request import TuningRequest
from maitre.workers.launch.run_tags import (
    ATTEMPT_TAG,
    BASE_MODEL_TAG,
    DEADLINE_TAG,
    REQUEST_TAG,
    TENANT_TAG,
    WORKERS_TAG,
)


def tags_of(request: TuningRequest, workers: Sequence[str]) -> dict[str, str]:
    """The tags of the request's run; `workers` are those that are to have it, if any are."""
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
    """The configuration of the request's run."""
    values = {"max_iterations": request.max_iterations, "lookup": lookup}
    return {"ops": {"tuned_prompts": {"config": values}}}
