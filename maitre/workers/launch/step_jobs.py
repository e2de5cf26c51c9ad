"""The step Jobs of a cancelled run: nobody else ends them.

dagster-k8s deletes the run's own Job. The executor in it would end the steps, but does not while
Dagster would start the run again, which run monitoring does up to `max_resume_run_attempts` times.
"""

import time
from collections.abc import Callable
from typing import Any

RUN_LABEL = "dagster/run-id"
_STEPS = "app.kubernetes.io/component=step_worker"
_LOOKS = 8
_PAUSE_S = 1.0
_NOT_FOUND = 404


def delete_step_jobs(
    jobs: Any, namespace: str, run_id: str, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Delete a run's step Jobs and their pods; return how many.

    `jobs` is a `kubernetes.client.BatchV1Api`. The run's own pod takes some seconds to end and may
    start a step meanwhile: it looks again until there is none twice in a row, at most eight times.
    """
    selector = f"{RUN_LABEL}={run_id},{_STEPS}"
    deleted: set[str] = set()
    empty_looks = 0
    for look in range(_LOOKS):
        if look:
            sleep(_PAUSE_S)
        found = jobs.list_namespaced_job(namespace, label_selector=selector, _request_timeout=10)
        names = [
            job.metadata.name
            for job in found.items
            if job.metadata.deletion_timestamp is None and job.metadata.name not in deleted
        ]
        for name in names:
            _delete(jobs, namespace, name)
            deleted.add(name)
        empty_looks = 0 if names else empty_looks + 1
        if empty_looks == 2:
            break
    return len(deleted)


def _delete(jobs: Any, namespace: str, name: str) -> None:
    from kubernetes.client import ApiException

    try:
        # Their pods go with them.
        jobs.delete_namespaced_job(
            name, namespace, propagation_policy="Background", _request_timeout=10
        )
    except ApiException as error:
        if error.status != _NOT_FOUND:
            raise
