"""Whether a run still has its worker, and who is to find it another one."""

from datetime import UTC, datetime, timedelta

from maitre.workers.launch.dagster_internals import DagsterRun, DagsterRunStatus
from maitre.workers.leases import LeaseState, LeaseStore, RunLease
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.pool import WarmPool

_CLAIM_TAKES = timedelta(seconds=5)
"""How long after its lease a run may not have reached its worker yet."""
_QUEUEING_TAKES = timedelta(seconds=60)
"""How long after its lease was refused a run may not be back in Dagster's queue yet."""


def why_lost(store: LeaseStore, pool: WarmPool, lease: RunLease) -> str | None:
    """Why the lease's worker no longer works on the run; `None` when it does."""
    if lease.state is LeaseState.RELEASED:
        return f"{lease.worker} gave the run up: {lease.message}"
    try:
        view = pool.client(lease.url).status()
    except WorkerUnreachableError as error:
        if error.is_gone or lease.lease_until < datetime.now(UTC):
            return f"{lease.worker} is gone: {error}"
        return None
    except ClaimRefusedError as error:
        return f"{lease.worker} is gone: {error}"
    if view.claim is not None and view.claim.attempt == lease.attempt:
        return None
    if datetime.now(UTC) - lease.placed_at < _CLAIM_TAKES:
        return None
    # Over since the lease was read?
    now = store.current(lease.run_id)
    if now is not None and now.state is LeaseState.ENDED:
        return None
    return f"{lease.worker} does not have the run"


def is_dagsters_to_start(run: DagsterRun, lease: RunLease) -> bool:
    """Whether the run waits in Dagster's queue, or is about to: nobody else may place it.

    Of one whose launcher has died before it could queue it somebody else takes care later.
    """
    if run.status in (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED):
        return True
    is_refused = lease.state is LeaseState.RELEASED and lease.taken == 0
    is_new = datetime.now(UTC) - lease.placed_at < _QUEUEING_TAKES
    return is_refused and is_new and run.status is DagsterRunStatus.STARTING
