"""When the workers of one pool come free, as a plan of that pool sees it.

Running jobs hold theirs until a quantile of what they still need; a running job that will be late
gets more workers where idle ones save it; the planner of the queued jobs takes it from there.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

from maitre.scheduling.actions import PreemptJob, RejectJob, ResizeJob, StartJob, StartLookup
from maitre.scheduling.policies.availability import idle_workers
from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.plan_parameters import PlanParameters, PoolPlan
from maitre.scheduling.policies.preemption import Victims, is_lost
from maitre.scheduling.policies.ways import Way, Ways
from maitre.scheduling.snapshot import JobView, Pool, RunningJob

ROUNDING_S = 0.05
LATER = 1 << 20  # after idle workers that are free at the same time
_NEW = 1 << 21


class PoolWorkers:
    """The workers of a pool, and at most `room` new ones, during one plan.

    What is decided about running jobs goes into `plan`.
    """

    def __init__(
        self,
        pool: Pool,
        time_s: float,
        room: int,
        error: EstimateError,
        ways: Ways,
        parameters: PlanParameters,
        plan: PoolPlan,
    ) -> None:
        self.pool = pool
        self.model = pool.model
        self.now = time_s
        self.room = room
        self.p = parameters
        self.plan = plan
        self.error = error
        self.ways = ways
        self.idle = idle_workers(pool)
        # (when it comes free, order, worker), rising; new workers have no id yet
        self.free: list[tuple[float, int, str]] = [
            (time_s, order, name) for order, name in enumerate(self.idle)
        ]
        self.rest_s: dict[str, float] = {}  # what a running job still needs on its workers
        self.free_s: dict[str, float] = {}  # when a running job is expected to be done
        self.victims: Victims | None = None
        self.taken: set[str] = set()

    def is_idle(self, name: str) -> bool:
        """Return whether the worker is ready, and free in this plan too."""
        return name in self.pool.idle and name not in self.taken

    def idle_now(self) -> list[str]:
        """Return the workers on which something could start now."""
        return [name for at_s, _, name in self.free if at_s <= self.now and self.is_idle(name)]

    def take_now(self, names: Sequence[str]) -> None:
        """Take workers out of the plan."""
        self.free = [entry for entry in self.free if entry[2] not in names]
        self.taken.update(names)

    def add_free_from(self, names: Sequence[str], until_s: float) -> None:
        """Record that workers come free at `until_s`."""
        for name in names:
            insort(self.free, (until_s, LATER, name))

    def add_workers(self, needed: int, ready_s: float) -> None:
        """Load new workers, until `needed` are free by `ready_s`."""
        early = sum(1 for at_s, _, _ in self.free[:needed] if at_s <= ready_s)
        for _ in range(needed - early):
            insort(self.free, (ready_s, _NEW, ""))
            self.plan.grow += 1
            self.room -= 1

    def start(self, job: JobView, way: Way, names: tuple[str, ...]) -> None:
        """Start a job, or its lookup, now."""
        if way.lookup:
            self.plan.actions.append(StartLookup(job.job_id, names[0]))
        else:
            self.plan.actions.append(StartJob(job.job_id, names))
        self.taken.update(names)

    def remove_running(self, running: RunningJob) -> None:
        """Take the running job's workers out of those that come free."""
        free_s = self.free_s.get(running.job.job_id, self.now)
        for name in running.workers:
            entry = (free_s, LATER, name)
            at = bisect_left(self.free, entry)
            if at < len(self.free) and self.free[at] == entry:
                del self.free[at]
            else:
                self.free = [other for other in self.free if other[2] != name]

    def place_running(self) -> None:
        """Record when running jobs free their workers; reject or rescue those that will be late."""
        now, left_of, quantile = self.now, self.error.left, self.p.finish_quantile
        sooner = self.p.release_quantile
        late: list[tuple[float, str, RunningJob]] = []
        for running in self.pool.running.values():
            job, from_s = running.job, running.progress_from_s
            starts_s = from_s if from_s > now else now
            done = job.iterations_done + (starts_s - from_s) / running.iteration_s
            rest_s = left_of(job, done, quantile) * running.iteration_s
            self.rest_s[job.job_id] = rest_s
            if starts_s + rest_s > job.deadline_s + ROUNDING_S:
                late.append((job.deadline_s, job.job_id, running))
            else:
                free_s = starts_s + left_of(job, done, sooner) * running.iteration_s
                self.free_s[job.job_id] = free_s
                self.free += [(free_s, LATER, name) for name in running.workers]
        self.free.sort()
        late.sort(key=lambda entry: entry[:2])
        for _, job_id, running in late:
            if self.reject_lost(running) or self.rescue(running):
                continue
            ends_s = max(now, running.progress_from_s) + self.rest_s[job_id]
            self.free_s[job_id] = ends_s
            self.add_free_from(running.workers, ends_s)

    def reject_lost(self, running: RunningJob) -> bool:
        """Reject the job if the policy rejects, and it will be late even if it is lucky."""
        if not self.p.reject_hopeless:
            return False
        if not is_lost(running, self.now, self.error, self.ways.fastest_s, self.p):
            return False
        job_id = running.job.job_id
        self.plan.actions += [
            PreemptJob(job_id),
            RejectJob(job_id, "it would miss its deadline even on the most workers"),
        ]
        self.taken.update(running.workers)
        self.add_free_from(running.workers, self.now + ROUNDING_S)
        return True

    def rescue(self, running: RunningJob) -> bool:
        """Move a job that will be late to more workers, the cheapest idle ones that save it."""
        job, now_count = running.job, len(running.workers)
        done = running.iterations_done(self.now)
        left = self.error.left(job, done, self.p.rescue_quantile)
        starts_s = max(self.now, running.progress_from_s)
        if starts_s + left * running.iteration_s <= job.deadline_s + ROUNDING_S:
            return False
        idle = self.idle_now()
        for workers, iteration_s in self.ways.speeds:
            added = workers - now_count
            ends_s = self.now + self.model.resize_s + left * iteration_s
            if not 0 < added <= len(idle) or ends_s > job.deadline_s:
                continue
            names = (*running.workers, *idle[:added])
            self.take_now(idle[:added])
            self.plan.actions.append(ResizeJob(job.job_id, names))
            self.add_free_from(names, ends_s)
            return True
        return False

    def ranked_victims(self) -> Victims:
        """Return the running jobs by how long they can wait; rank them at the first call."""
        if self.victims is None:
            self.victims = Victims(self.pool, self.now, self.rest_s, self.error, self.p)
        return self.victims

    def victim(self, way: Way) -> RunningJob | None:
        """Return a running job on the same number of workers that can wait and still be in time."""
        return self.ranked_victims().best(way.workers, self.now + way.run_s, self.taken)
