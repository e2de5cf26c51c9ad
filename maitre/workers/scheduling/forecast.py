"""The forecast that a submission gets: when its request finishes, and its price."""

import heapq
import math
from dataclasses import dataclass, replace

from maitre.scheduling.cluster import ModelSpec
from maitre.scheduling.snapshot import JobView, Snapshot


@dataclass(frozen=True)
class Forecast:
    """A finish (wall clock, s), the number of workers, and the price of the GPU time."""

    finish_s: float
    price: float
    workers: int


def forecast(snapshot: Snapshot, job: JobView) -> Forecast:
    """Return the cheapest finish by the job's deadline, or the earliest finish if none is in time.

    The queued jobs with earlier deadlines go first, each on the number of workers that costs least.
    A GPU that is not held counts as free after a warm-up. The estimates are assumed to be right.
    """
    pool = snapshot.pools[job.base_model]
    free_s = _free_s(snapshot, job.base_model)
    for other in sorted(pool.queued.values(), key=lambda queued: queued.deadline_s):
        if other.job_id != job.job_id and other.deadline_s <= job.deadline_s:
            count = min(pool.model.counts_by_cost[0], len(free_s))
            start_s = max(heapq.heappop(free_s) for _ in range(count))
            for _ in range(count):
                heapq.heappush(free_s, start_s + _run_s(pool.model, other, count))
    starts_s = sorted(free_s)
    found = []
    for count in pool.model.worker_counts:
        if count <= len(starts_s):
            run_s = _run_s(pool.model, job, count)
            price = count * run_s / 3600 * snapshot.cluster.gpu_price_per_hour
            found.append(Forecast(starts_s[count - 1] + run_s, price, count))
    in_time = [one for one in found if one.finish_s <= job.deadline_s]
    if in_time:
        return min(in_time, key=lambda one: (one.price, one.finish_s))
    return min(found, key=lambda one: (one.finish_s, one.price))


def earliest_deadline_s(snapshot: Snapshot, job: JobView) -> float:
    """Return the earliest deadline that the job can meet, its own or a later one, in whole s.

    With a later deadline more of the queue goes first. So the finish that is forecast for one
    deadline may be too early as the next deadline.
    """
    deadline_s = job.deadline_s
    while (found := forecast(snapshot, replace(job, deadline_s=deadline_s))).finish_s > deadline_s:
        deadline_s = float(math.ceil(found.finish_s))
    return deadline_s


def _free_s(snapshot: Snapshot, base_model: str) -> list[float]:
    """Return when each GPU that the model can get becomes free, as a heap."""
    pool = snapshot.pools[base_model]
    now_s = snapshot.time_s
    busy_until_s = {}
    for running in pool.running.values():
        left = running.job.iterations_estimate - running.iterations_done(now_s)
        for worker in running.workers:
            busy_until_s[worker] = now_s + max(0.0, left) * running.iteration_s
    for lookup in pool.lookups.values():
        left = lookup.job.iterations_bank_estimate * pool.model.iteration_s[1]
        busy_until_s[lookup.worker] = lookup.ends_s + left
    free = [
        busy_until_s.get(worker.worker, worker.ready_s if worker.state == "loading" else now_s)
        for worker in pool.workers.values()
    ]
    free += [now_s + pool.model.warm_up_s] * snapshot.cold
    free = [max(now_s, moment) for moment in free] or [now_s + pool.model.warm_up_s]
    heapq.heapify(free)
    return free


def _run_s(model: ModelSpec, job: JobView, count: int) -> float:
    counts = [k for k in model.worker_counts if k <= count] or [model.worker_counts[0]]
    left = max(0.0, job.iterations_estimate - job.iterations_done)
    return left * model.iteration_s[counts[-1]]
