"""Runs that no worker works on: those to resume on another worker, and those that are over."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from maitre.settings import Settings
from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.launch.dagster_internals import free_slots
from maitre.workers.launch.dagster_queue import waits_in_dagsters_queue
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.lease_health import why_lost
from maitre.workers.leases import LeaseState, LeaseStore, RunLease
from maitre.workers.pool.pool import WarmPool

_CALLED_TOGETHER = 128
MOST_TAKEN = 20
"""How many workers may take one run, one after the other; then it ends as failed."""


def runs_to_resume(
    settings: Settings,
    instance: dg.DagsterInstance,
    pool: WarmPool,
    report: Callable[[str], None],
) -> dict[str, int]:
    """Return the runs whose worker is gone, each with about how many iterations it has done.

    A run that waits in Dagster's queue is left to Dagster, and so is a run that no worker has taken
    yet, because its launcher is about to queue it. Closes the leases of runs that are over.
    """
    found: dict[str, int] = {}
    if not isinstance(instance.run_launcher, WarmPoolRunLauncher):
        return found
    store = LeaseStore(settings.request_queue_url)
    open_runs: list[tuple[dg.DagsterRun, RunLease]] = []
    for state in (LeaseState.HELD, LeaseState.RELEASED):
        for lease in store.find(state):
            run = instance.get_run_by_id(lease.run_id)
            if run is None or run.is_finished:
                _close_lease(settings, store, lease, report)
            elif not waits_in_dagsters_queue(run, lease):
                open_runs.append((run, lease))
    for run, lease in _runs_without_worker(store, pool, open_runs):
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
            continue
        if lease.taken >= MOST_TAKEN:
            instance.report_run_failed(run, f"gave up after {lease.taken} workers")
            continue
        # It waits from now on. Only the first of the rounds that see it reports that.
        if store.release(lease.run_id, lease.attempt, "its worker is gone"):
            free_slots(instance, lease.run_id)
            report(f"{lease.run_id} waits for a worker")
        # A lost worker's count is as old as its last renewal; 1 means that the run has begun.
        found[lease.run_id] = max(1, lease.iterations)
    return found


def _runs_without_worker(
    store: LeaseStore, pool: WarmPool, runs: Sequence[tuple[dg.DagsterRun, RunLease]]
) -> list[tuple[dg.DagsterRun, RunLease]]:
    """Return the runs whose worker is gone; call all workers at the same time.

    Workers that do not answer cost one time-out together, not one each.
    """
    if not runs:
        return []
    with ThreadPoolExecutor(min(len(runs), _CALLED_TOGETHER)) as threads:
        reasons = list(threads.map(lambda one: why_lost(store, pool, one[1]), runs))
    return [one for one, reason in zip(runs, reasons, strict=True) if reason is not None]


def _close_lease(
    settings: Settings, store: LeaseStore, lease: RunLease, report: Callable[[str], None]
) -> None:
    """Remove the checkpoints of a run that is over, then close its lease.

    If the checkpoints cannot be removed, the lease stays, and the next round tries again.
    """
    try:
        CheckpointStore.of(settings).remove(lease.run_id)
    except Exception as error:
        # An object store has errors of its own.
        report(f"{lease.run_id}: its checkpoints cannot be removed: {error}")
        return
    store.close(lease.run_id, lease.attempt)
