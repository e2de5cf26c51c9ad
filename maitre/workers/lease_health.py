"""Whether the worker that holds a run's lease still works on the run."""

from datetime import UTC, datetime, timedelta

from maitre.workers.leases import LeaseState, LeaseStore, RunLease
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.pool import WarmPool

_CLAIM_TAKES = timedelta(seconds=5)
"""How long after the lease was granted its claim may still be on its way to the worker."""


def why_lost(store: LeaseStore, pool: WarmPool, lease: RunLease) -> str | None:
    """Return why the lease's worker no longer works on the run; `None` when it does."""
    if lease.state is LeaseState.RELEASED:
        return f"{lease.worker} released the run: {lease.message}"
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
    # The run may have ended since the lease was read.
    now = store.current(lease.run_id)
    if now is not None and now.state is LeaseState.ENDED:
        return None
    return f"{lease.worker} does not have the run"
