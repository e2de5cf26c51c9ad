"""Which workers to try for a run, and how to claim several of them: all or none."""

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
    """What to try: all of the named workers together, or, with none named, any one of them.

    A worker that was named and is gone will not come back; then any one will do, too.
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
    """As many idle workers as the run had, if there are so many, or any one of them."""
    idle = [worker for worker in workers if worker.is_idle]
    size = 1 + len(before.others)
    groups: list[Sequence[PoolWorker]] = [idle[:size]] if 1 < size <= len(idle) else []
    return [*groups, *([worker] for worker in idle)]


def named_workers(run: dg.DagsterRun) -> frozenset[str]:
    """The workers that the run's tags name; none when any will do."""
    return frozenset(name for name in run.tags.get(WORKERS_TAG, "").split(",") if name)


def claim_all(pool: WarmPool, lease: RunLease, workers: Sequence[PoolWorker]) -> str | None:
    """Claim the workers, the one that executes the run last; why not, with none claimed then.

    No claim waits for another, so nothing can block. Who was claimed for a lease that is
    released lets go by itself, too, should this process die here.
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
