"""Runs that the ordinary launcher starts (on Kubernetes as a Job): their start and health."""

from collections.abc import Callable

import dagster as dg

from maitre.workers.launch.dagster_internals import CheckRunHealthResult, RunLauncher, WorkerStatus
from maitre.workers.pool.pool import PoolError

MOST_RESUMES = 3
"""How often a run without a warm worker is started again after its Job was lost.

Runs on warm workers may be resumed up to the instance's `max_resume_run_attempts`, because the
scheduler gives workers back. A Job that ends before its run was killed, most often for its memory,
and would be killed each time.
"""
ORDINARY_LAUNCHER = {
    "module": dg.Field(str),
    "class": dg.Field(str),
    "config": dg.Field(dg.Permissive(), is_required=False, default_value={}),
}
"""The schema of a launcher named in `dagster.yaml`."""
_NOT_THERE = "could not be found"


def start_ordinary(start: Callable[[], None]) -> None:
    """Call the ordinary launcher; raise `PoolError` when the API server takes no Job for now.

    Any other error would make Dagster fail the run. A Job of the run's name that exists already is
    the run's own: the answer of an earlier call was lost. A quota that changes at that moment is a
    conflict too.
    """
    try:
        start()
    except Exception as error:
        # Compared by name: to import dagster-k8s takes a second.
        kind, refused = type(error).__name__, getattr(error, "k8s_api_exception", None)
        is_conflict = getattr(refused, "status", None) == 409
        if is_conflict and '"AlreadyExists"' in str(getattr(refused, "body", "")):
            return
        if is_conflict or kind == "DagsterK8sAPIRetryLimitExceeded":
            raise PoolError(f"cannot make the run's Job for now: {refused}") from error
        raise


def ordinary_health(
    instance: dg.DagsterInstance, launcher: RunLauncher, run: dg.DagsterRun
) -> CheckRunHealthResult:
    """Return the health that `launcher` reports; fail a run that was resumed too often.

    Run monitoring resumes a run that is neither running nor over. When the launcher does not know
    the run's health (dagster-k8s when the API server does not answer), the run counts as running:
    a second Job must not start beside the first.
    """
    if not launcher.supports_check_run_worker_health:
        return CheckRunHealthResult(WorkerStatus.RUNNING, "launched the ordinary way")
    health = launcher.check_run_worker_health(run)
    message = health.msg or ""
    if health.status is WorkerStatus.UNKNOWN and _NOT_THERE not in message:
        return CheckRunHealthResult(WorkerStatus.RUNNING, f"cannot tell: {message}")
    if health.status in (WorkerStatus.RUNNING, WorkerStatus.SUCCESS):
        return health
    most = MOST_RESUMES if launcher.supports_resume_run else 0
    now = instance.get_run_by_id(run.run_id)
    if instance.count_resume_run_attempts(run.run_id) < most or now is None or now.is_finished:
        return health
    debug = launcher.get_run_worker_debug_info(run, include_container_logs=False)
    why = (
        f"The run's Job was lost ({message}) after it had been started again {most} times; it is "
        "not started once more. If it was killed for its memory, give the run more "
        "(tag dagster-k8s/config)."
    )
    instance.report_run_failed(now, f"{why}\n{debug}" if debug else why)
    return health
