"""The workers to try for a run, and the claim of several workers: all or none."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import dagster as dg

from maitre.workers.launch.run_tags import WORKERS_TAG
from maitre.workers.leases import RunLease
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.pool import PoolWorker, WarmPool
from maitre.workers.pool.protocol import Claim


def groups_of(
    workers: Sequence[PoolWorker], named: frozenset[str]
) -> Iterator[Sequence[PoolWorker]]:
    """Yield the groups of workers to try: all named workers together, else each worker alone.

    A named worker that is gone does not come back. Then any worker may take the run.
    """
    chosen = [worker for worker in workers if worker.name in named]
    if named and len(chosen) == len(named):
        yield chosen
        return
    for worker in workers:
        yield [worker]


def groups_to_resume_on(
    workers: Sequence[PoolWorker], before: RunLease
) -> list[Sequence[PoolWorker]]:
    """Return the groups to try: as many idle workers as the run had, then each idle one alone."""
    idle = [worker for worker in workers if worker.is_idle]
    size = 1 + len(before.others)
    groups: list[Sequence[PoolWorker]] = [idle[:size]] if 1 < size <= len(idle) else []
    return [*groups, *([worker] for worker in idle)]


def named_workers(run: dg.DagsterRun) -> frozenset[str]:
    """Return the workers that the run's tags name; none when any worker may take it."""
    return frozenset(name for name in run.tags.get(WORKERS_TAG, "").split(",") if name)


def claim_all(pool: WarmPool, lease: RunLease, workers: Sequence[PoolWorker]) -> str | None:
    """Claim all workers; return why that failed, with no worker claimed, or `None`.

    The worker that executes the run is the last one of `workers`. No claim waits for another one,
    so nothing can block. If this process dies here, the claimed workers let the run go when its
    lease is released.
    """
    claimed: list[PoolWorker] = []
    for rank, worker in enumerate(workers, start=1):
        claim = Claim(
            lease.attempt,
            lease.run_id,
            lease.number,
            lease.number > 1,
            rank=rank % len(workers),
            size=len(workers),
        )
        try:
            pool.client(worker.url).claim(claim)
        except (ClaimRefusedError, WorkerUnreachableError) as error:
            for other in claimed:
                with suppress(ClaimRefusedError, WorkerUnreachableError):
                    pool.client(other.url).preempt(lease.attempt)
            return str(error)
        claimed.append(worker)
    return None
