"""What a planner of one pool shares: when workers come free, and how long a job takes on k."""

from bisect import insort

from maitre.scheduling.cluster import ModelSpec
from maitre.scheduling.snapshot import JobView, Pool, Snapshot


def run_s(model: ModelSpec, job: JobView, workers: int, *, lookup: bool = False) -> float:
    """Return the estimated seconds that `job` still needs on `workers`, all costs included."""
    iteration_s = model.iteration_s[workers]
    if lookup:
        return model.lookup_s + job.iterations_bank_estimate * iteration_s
    left = max(0.0, job.iterations_estimate - job.iterations_done)
    return left * iteration_s + (model.resize_s if job.started else 0.0)


def idle_workers(pool: Pool) -> list[str]:
    """Return idle workers, the most recently used first, so that others can be given back."""
    idle = sorted(pool.idle.values(), key=lambda worker: (-worker.since_s, worker.worker))
    return [worker.worker for worker in idle]


def loading_until_s(pool: Pool) -> list[float]:
    """Return when the pool's loading workers will be ready, rising."""
    return sorted(worker.ready_s for worker in pool.workers.values() if worker.state == "loading")


def predicted_releases_s(pool: Pool, time_s: float, overdue_fraction: float) -> list[float]:
    """Return when running jobs will free their workers, one entry per worker, rising.

    A job past its estimate is taken to need `overdue_fraction` of the estimate more.
    """
    releases: list[float] = []
    for running in pool.running.values():
        done = running.iterations_done(time_s)
        estimate = running.job.iterations_estimate
        left = estimate - done if done < estimate else overdue_fraction * estimate
        at_s = max(time_s, running.progress_from_s) + left * running.iteration_s
        for _ in running.workers:
            insort(releases, at_s)
    return releases


def stealable_workers(snapshot: Snapshot, base_model: str) -> list[str]:
    """Return idle workers of other pools without queued jobs, longest idle first."""
    idle = [
        worker
        for name, pool in snapshot.pools.items()
        if name != base_model and not pool.queued and not pool.lookups
        for worker in pool.idle.values()
    ]
    return [worker.worker for worker in sorted(idle, key=lambda w: (w.since_s, w.worker))]
