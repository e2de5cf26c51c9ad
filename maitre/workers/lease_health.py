"""Whether a run still has its worker, and who is to find it another one."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from maitre.workers.leases import Placement, PlacementState, PlacementStore
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.pool import WarmPool

_CLAIM_TAKES = timedelta(seconds=5)
"""How long after its placement a run may not have reached its worker yet."""
_QUEUEING_TAKES = timedelta(seconds=60)
"""How long after its placement was refused a run may not be back in Dagster's queue yet."""


def why_gone(store: PlacementStore, pool: WarmPool, placement: Placement) -> str | None:
    """Why the placement's worker no longer works on the run; `None` when it does."""
    if placement.state is PlacementState.RELEASED:
        return f"{placement.worker} gave the run up: {placement.message}"
    try:
        view = pool.client(placement.url).status()
    except WorkerUnreachableError as error:
        if error.is_gone or placement.lease_until < datetime.now(UTC):
            return f"{placement.worker} is gone: {error}"
        return None
    except ClaimRefusedError as error:
        return f"{placement.worker} is gone: {error}"
    if view.claim is not None and view.claim.attempt == placement.attempt:
        return None
    if datetime.now(UTC) - placement.placed_at < _CLAIM_TAKES:
        return None
    # Over since the placement was read?
    now = store.current(placement.run_id)
    if now is not None and now.state is PlacementState.ENDED:
        return None
    return f"{placement.worker} does not have the run"


def is_dagsters_to_start(run: dg.DagsterRun, placement: Placement) -> bool:
    """Whether the run waits in Dagster's queue, or is about to: nobody else may place it.

    Of one whose launcher has died before it could queue it somebody else takes care later.
    """
    if run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED):
        return True
    is_refused = placement.state is PlacementState.RELEASED and placement.taken == 0
    is_new = datetime.now(UTC) - placement.placed_at < _QUEUEING_TAKES
    return is_refused and is_new and run.status is dg.DagsterRunStatus.STARTING
