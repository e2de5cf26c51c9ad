"""Runs that no worker works on: which of them are to go on elsewhere, and which are over."""

from collections.abc import Callable

import dagster as dg

from maitre.settings import Settings
from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.launch.dagster_internals import free_slots
from maitre.workers.launch.dagster_queue import waits_in_dagsters_queue
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.lease_health import why_lost
from maitre.workers.leases import LeaseState, LeaseStore, RunLease
from maitre.workers.pool.pool import WarmPool

MOST_TAKEN = 20
"""How many workers may have taken a run; more have not ended what each of them gave up."""


def runs_to_resume(
    settings: Settings,
    instance: dg.DagsterInstance,
    pool: WarmPool,
    tell: Callable[[str], None],
) -> dict[str, int]:
    """Runs whose worker is gone, each with about how many iterations it has done.

    What Dagster starts itself is left to it: a run in its queue, and one that no worker has taken
    yet, whose launcher is about to queue it. The leases of runs that are over are closed.
    """
    found: dict[str, int] = {}
    if not isinstance(instance.run_launcher, WarmPoolRunLauncher):
        return found
    store = LeaseStore(settings.request_queue_url)
    for state in (LeaseState.HELD, LeaseState.RELEASED):
        for lease in store.find(state):
            run = instance.get_run_by_id(lease.run_id)
            if run is None or run.is_finished:
                _close(settings, store, lease, tell)
                continue
            if waits_in_dagsters_queue(run, lease):
                continue
            if why_lost(store, pool, lease) is None:
                continue
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run)
                continue
            if lease.taken >= MOST_TAKEN:
                instance.report_run_failed(run, f"gave up after {lease.taken} workers")
                continue
            # It waits from now on: said once, not in each of the rounds that it waits.
            if store.release(lease.run_id, lease.attempt, "its worker is gone"):
                free_slots(instance, lease.run_id)
                tell(f"{lease.run_id} waits for a worker")
            # Of a worker that was lost that is as old as its lease. One says that it has begun.
            found[lease.run_id] = max(1, lease.iterations)
    return found


def _close(
    settings: Settings, store: LeaseStore, lease: RunLease, tell: Callable[[str], None]
) -> None:
    """Forget a run that is over, its checkpoints first: what fails is done at the next round."""
    try:
        CheckpointStore.of(settings).remove(lease.run_id)
    except Exception as error:
        # An object store has errors of its own.
        tell(f"{lease.run_id}: its checkpoints cannot be removed: {error}")
        return
    store.close(lease.run_id, lease.attempt)
