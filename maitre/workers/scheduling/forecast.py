"""The forecast that a submission gets: when its request finishes, and its price."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maitre.scheduling.cluster import ModelSpec
from maitre.scheduling.snapshot import JobView, Snapshot


@dataclass(frozen=True)
class Forecast:
    """A finish (wall clock, s), the number of workers, and the price of the GPU time."""

    finish_s: float
    price: float
    workers: int


class WorkAhead(NamedTuple):
    """A queued job, as far as it delays another one."""

    deadline_s: float
    iterations: float


def forecast(snapshot: Snapshot, job: JobView, queue: Sequence[WorkAhead] = ()) -> Forecast:
    """Return the cheapest finish by the job's deadline, or the earliest finish if none is in time.

    The queued jobs with earlier deadlines go first, each on the number of workers that costs least:
    those of the snapshot and those of `queue`, which is ordered by deadline. A GPU that is not held
    counts as free after a warm-up. The estimates are assumed to be right.
    """
    return _Line(snapshot, job, queue).finish_by(job.deadline_s)


def earliest_deadline_s(snapshot: Snapshot, job: JobView, queue: Sequence[WorkAhead] = ()) -> float:
    """Return the earliest deadline that the job can meet, its own or a later one, in whole s.

    With a later deadline more of the queue goes first. So the finish that is forecast for one
    deadline may be too early as the next deadline.
    """
    line = _Line(snapshot, job, queue)
    deadline_s = job.deadline_s
    while (found := line.finish_by(deadline_s)).finish_s > deadline_s:
        deadline_s = float(math.ceil(found.finish_s))
    return deadline_s


class _Line:
    """The jobs before one job, which take the GPUs in the order of their deadlines."""

    def __init__(self, snapshot: Snapshot, job: JobView, queue: Sequence[WorkAhead]) -> None:
        pool = snapshot.pools[job.base_model]
        self._model = pool.model
        self._price_per_hour = snapshot.cluster.gpu_price_per_hour
        self._gpu_s_left = _gpu_s_left(job)
        self._free_s = _free_s(snapshot, job.base_model)
        others = [
            WorkAhead(other.deadline_s, _gpu_s_left(other))
            for other in pool.queued.values()
            if other.job_id != job.job_id
        ]
        others.sort(key=lambda work: work.deadline_s)
        self._ahead = heapq.merge(others, queue, key=lambda work: work.deadline_s)
        self._next = next(self._ahead, None)

    def finish_by(self, deadline_s: float) -> Forecast:
        """Return the best finish with this deadline; call it with rising deadlines only."""
        self._let_go_first(deadline_s)
        starts_s = sorted(self._free_s)
        found = []
        for count in self._model.worker_counts:
            if count <= len(starts_s):
                run_s = self._gpu_s_left * _iteration_s(self._model, count)
                price = count * run_s / 3600 * self._price_per_hour
                found.append(Forecast(starts_s[count - 1] + run_s, price, count))
        in_time = [one for one in found if one.finish_s <= deadline_s]
        if in_time:
            return min(in_time, key=lambda one: (one.price, one.finish_s))
        return min(found, key=lambda one: (one.finish_s, one.price))

    def _let_go_first(self, deadline_s: float) -> None:
        """Give the GPUs to the jobs with deadlines up to this one."""
        count = min(self._model.counts_by_cost[0], len(self._free_s))
        iteration_s = _iteration_s(self._model, count)
        while self._next is not None and self._next.deadline_s <= deadline_s:
            run_s = self._next.iterations * iteration_s
            if count == 1:
                heapq.heapreplace(self._free_s, self._free_s[0] + run_s)
            else:
                start_s = max(heapq.heappop(self._free_s) for _ in range(count))
                for _ in range(count):
                    heapq.heappush(self._free_s, start_s + run_s)
            self._next = next(self._ahead, None)


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


def _gpu_s_left(job: JobView) -> float:
    return max(0.0, job.iterations_estimate - job.iterations_done)


def _iteration_s(model: ModelSpec, count: int) -> float:
    """Return the seconds per iteration of so many workers, or of the next smaller known number."""
    counts = [k for k in model.worker_counts if k <= count] or [model.worker_counts[0]]
    return model.iteration_s[counts[-1]]
