"""Whether Dagster's own queue is to start a run, so that nobody else may place it."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from maitre.workers.leases import LeaseState, RunLease

_QUEUEING_TAKES = timedelta(seconds=60)
"""How long after its lease was refused a run may not be back in Dagster's queue yet."""


def waits_in_dagsters_queue(run: dg.DagsterRun, lease: RunLease) -> bool:
    """Return whether the run waits in Dagster's queue, or its launcher is about to queue it.

    The launcher may die before it queues the run. After a minute the run therefore counts as
    waiting for a worker.
    """
    if run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED):
        return True
    is_refused = lease.state is LeaseState.RELEASED and lease.taken == 0
    is_new = datetime.now(UTC) - lease.placed_at < _QUEUEING_TAKES
    return is_refused and is_new and run.status is dg.DagsterRunStatus.STARTING
