"""Plans one pool: which job starts when, on how many workers, and what must start to load now.

Jobs are taken earliest deadline first. For each, the ways to meet its deadline are compared by the
GPU-seconds that they add: waiting for workers that come free, more workers, preempting a job that
can spare the time, new workers. Jobs that cannot meet their deadline go behind those that can.
"""

from bisect import insort
from collections.abc import Sequence

from maitre.scheduling.actions import PreemptJob, RejectJob, StartJob, StartLookup
from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.overload import jobs_to_drop
from maitre.scheduling.policies.plan_parameters import PlanParameters, PoolPlan
from maitre.scheduling.policies.pool_workers import LATER, ROUNDING_S, PoolWorkers
from maitre.scheduling.policies.ways import Way, Ways
from maitre.scheduling.snapshot import JobView, Pool

_LOOK_AHEAD_S = 60.0
_LOOKUP_OVERLAP = 0.2  # a lookup ahead may end this share of itself after its worker is wanted

# (deadline_s, job_id, job, from_s): a job to place, and when it can start at the earliest
_Waiting = tuple[float, str, JobView, float]


def plan_pool(pool: Pool, time_s: float, room: int, parameters: PlanParameters) -> PoolPlan:
    """Plan one pool at `time_s` as if there were enough GPUs.

    `grow` in the plan can exceed `room`. Then the plan is not complete, and the pool is crowded.
    """
    return _Planner(pool, time_s, room, 0.0, parameters).run()


def plan_crowded_pool(pool: Pool, time_s: float, room: int, parameters: PlanParameters) -> PoolPlan:
    """Plan a pool that gets fewer workers than it wants.

    More workers for a late job cost GPU time that others lack: only ways at most
    `crowded_dearest` times as dear as the cheapest are used, and the largest jobs are dropped.
    """
    return _Planner(pool, time_s, room, parameters.crowded_dearest, parameters).run()


class _Planner:
    """Places the queued jobs of one pool on its workers; crowded where `dearest` is not 0."""

    def __init__(
        self, pool: Pool, time_s: float, room: int, dearest: float, parameters: PlanParameters
    ) -> None:
        self.pool = pool
        self.model = pool.model
        self.now = time_s
        self.p = parameters
        self.crowded = dearest > 0
        self.dearest = dearest or float("inf")
        self.room_limit = room
        self.plan = PoolPlan()
        error = EstimateError(pool.completions)
        self.ways = Ways(pool.model, error, time_s, parameters)
        self.fewest = self.ways.speeds[0][0]  # workers of the cheapest way
        self.workers = PoolWorkers(
            pool,
            time_s,
            room if self.crowded else parameters.gpus,
            error,
            self.ways,
            parameters,
            self.plan,
        )
        self.wanted_s: dict[str, float] = {}  # idle workers kept for a job, and from when

    def run(self) -> PoolPlan:
        """Plan the pool."""
        pool = self.pool
        if not (pool.queued or pool.lookups or pool.running):
            self.plan.spare = self.workers.idle
            return self.plan
        for worker in pool.workers.values():
            if worker.state == "loading":
                insort(self.workers.free, (worker.ready_s, LATER, worker.worker))
        self.workers.place_running()
        for view in pool.lookups.values():
            insort(self.workers.free, (view.ends_s, LATER, view.worker))
        waiting: list[_Waiting] = [
            (job.deadline_s, job_id, job, self.now) for job_id, job in pool.queued.items()
        ]
        waiting += [
            (view.job.deadline_s, job_id, view.job, view.ends_s)
            for job_id, view in pool.lookups.items()
        ]
        waiting.sort()
        behind = self.place_all(waiting)
        if self.p.lookup_ahead and self.p.lookup:
            self.look_up_ahead(waiting)
        self.place_behind(behind)
        self.plan.spare = self.workers.idle_now()
        self.plan.spare.sort(key=self.workers.idle.index)
        return self.plan

    # -- queued jobs --------------------------------------------------------------------------

    def place_all(self, waiting: Sequence[_Waiting]) -> list[JobView]:
        """Place jobs by deadline; return those to leave behind."""
        behind: list[JobView] = []
        dropped = self.drop(waiting) if self.crowded else frozenset()
        lucky = self.p.hopeless_quantile
        for deadline_s, job_id, job, from_s in waiting:
            if self.full():
                break
            if from_s + self.ways.fastest_run_s(job, from_s, lucky) > deadline_s:
                placed = self.reject(job)
            else:
                placed = job_id not in dropped and self.place(job, from_s)
            if not placed and job_id not in self.pool.lookups:
                behind.append(job)
        return behind

    def reject(self, job: JobView) -> bool:
        if not self.p.reject_hopeless or job.job_id not in self.pool.queued:
            return False
        self.plan.actions.append(
            RejectJob(job.job_id, "it would miss its deadline even on the most workers")
        )
        return True

    def full(self) -> bool:
        """Return whether no further job can change what is done now.

        Either more workers are wanted than there are, so the pool must be planned as crowded; or
        it is planned as crowded, and every worker is taken for longer than a decision looks ahead.
        """
        if not self.crowded:
            return self.plan.grow > self.room_limit
        ahead_s = self.now + self.model.warm_up_s + _LOOK_AHEAD_S
        return (
            self.workers.room == 0 and bool(self.workers.free) and self.workers.free[0][0] > ahead_s
        )

    def drop(self, waiting: Sequence[_Waiting]) -> frozenset[str]:
        """Leave the largest jobs behind where not all can be in time."""
        demand = []
        for deadline_s, job_id, job, from_s in waiting:
            way = self.ways.cheapest(job, from_s, 0.5)
            if from_s + way.run_s <= deadline_s:
                demand.append((deadline_s, job_id, way.gpu_s))
        loaded_s = self.now + self.model.warm_up_s
        free_s = [at_s for at_s, _, _ in self.workers.free] + [loaded_s] * self.workers.room
        return jobs_to_drop(demand, free_s, self.p.usable_share)

    def place(self, job: JobView, from_s: float) -> bool:
        """Place the job in the cheapest way that is in time, surest first; return whether it is."""
        if self.out_of_reach(job, from_s, self.p.hopeless_quantile):
            return False
        if self.place_on_next_free_worker(job, from_s):
            return True
        quantiles = (0.5,) if self.crowded else self.p.fallback_quantiles
        for quantile in (self.p.finish_quantile, *quantiles):
            if self.out_of_reach(job, from_s, quantile):
                continue
            if self.place_at(job, from_s, quantile):
                return True
        return False

    def out_of_reach(self, job: JobView, from_s: float, quantile: float) -> bool:
        """Return whether a pool that cannot grow can neither wait nor preempt in time.

        Decided without a look at the single ways; False where that cannot decide.
        """
        if not self.crowded or self.workers.room > 0 or not self.workers.free:
            return False
        run_s = self.ways.fastest_run_s(job, from_s, quantile)
        if self.workers.free[0][0] <= job.deadline_s + ROUNDING_S - 0.99 * run_s:
            return False
        return self.workers.ranked_victims().none_until(self.now + run_s)

    def place_on_next_free_worker(self, job: JobView, from_s: float) -> bool:
        """Place the job in the cheapest way on the next free worker, if that is in time."""
        if not self.workers.free or self.fewest > 1:
            return False
        way = self.ways.cheapest(job, from_s, self.p.finish_quantile)
        start_s = max(from_s, self.workers.free[0][0])
        if start_s + way.run_s > job.deadline_s:
            return False
        self.commit(job, way, start_s)
        return True

    def place_at(self, job: JobView, from_s: float, quantile: float) -> bool:
        """Place the job in the cheapest way at a `quantile` of its iterations, if it fits."""
        free, model = self.workers.free, self.model
        ready_s = self.now + model.warm_up_s
        best_cost = float("inf")
        best: tuple[str, Way, float] | None = None
        for way in self.ways.all(job, from_s, quantile, self.dearest):
            if way.gpu_s >= best_cost:
                continue
            k = way.workers
            latest_s = job.deadline_s + ROUNDING_S + 0.01 * way.run_s - way.run_s
            if k <= len(free):
                start_s = max(from_s, free[k - 1][0])
                if start_s <= latest_s:
                    cost = way.gpu_s
                    if k > 1:
                        cost += sum(start_s - max(self.now, at_s) for at_s, _, _ in free[:k])
                    if cost < best_cost:
                        best_cost, best = cost, ("wait", way, start_s)
                    if k == 1:
                        continue
            if self.workers.room > 0 and ready_s <= latest_s:
                new = k - sum(1 for at_s, _, _ in free[:k] if at_s <= ready_s)
                cost = way.gpu_s + new * model.warm_up_s
                if 0 < new <= self.workers.room and cost < best_cost:
                    best_cost, best = cost, ("grow", way, max(ready_s, from_s))
            if self.p.preempt and from_s <= self.now <= latest_s:
                cost = way.gpu_s + k * model.resize_s
                if cost < best_cost and self.workers.victim(way) is not None:
                    best_cost, best = cost, ("preempt", way, self.now)
        if best is None:
            return False
        kind, way, start_s = best
        if kind == "preempt":
            self.preempt_for(job, way)
            return True
        if kind == "grow":
            self.workers.add_workers(way.workers, ready_s)
        self.commit(job, way, start_s)
        return True

    def commit(self, job: JobView, way: Way, start_s: float) -> None:
        """Take the workers that come free first; start the job or its lookup if they are idle."""
        used = self.workers.free[: way.workers]
        del self.workers.free[: way.workers]
        names = tuple(name for _, _, name in used)
        if start_s <= self.now and all(self.workers.is_idle(name) for name in names):
            self.workers.start(job, way, names)
        else:
            self.wanted_s.update(dict.fromkeys(names, start_s))
        self.workers.add_free_from(names, start_s + max(self.ways.release_s(job, way), 0.001))

    def preempt_for(self, job: JobView, way: Way) -> None:
        victim = self.workers.victim(way)
        assert victim is not None
        self.plan.actions.append(PreemptJob(victim.job.job_id))
        self.workers.remove_running(victim)
        self.workers.start(job, way, victim.workers)
        rest_s = self.model.resize_s + self.workers.rest_s[victim.job.job_id]
        self.workers.add_free_from(victim.workers, self.now + way.run_s + rest_s)

    # -- what is left -------------------------------------------------------------------------

    def look_up_ahead(self, waiting: Sequence[_Waiting]) -> None:
        """Look up waiting jobs on idle workers that wait until a set of k is complete.

        The lookup of a job that will start later costs nothing there, and shortens the job.
        """
        ends_s = self.now + (1 - _LOOKUP_OVERLAP) * self.model.lookup_s
        kept = [name for name, at_s in self.wanted_s.items() if at_s >= ends_s]
        kept = [name for name in kept if self.workers.is_idle(name)]
        begun = {
            action.job_id
            for action in self.plan.actions
            if isinstance(action, StartJob | StartLookup | RejectJob)
        }
        for _, job_id, job, from_s in waiting if kept else ():
            fresh = not (job.started or job.lookup_ended or from_s > self.now or job_id in begun)
            if fresh and self.ways.cheapest(job, from_s, 0.5).lookup:
                name = kept.pop()
                self.workers.taken.add(name)
                self.plan.actions.append(StartLookup(job_id, name))
                if not kept:
                    return

    def place_behind(self, behind: Sequence[JobView]) -> None:
        """Place hopeless jobs on workers that no other job needs, the shortest first."""
        begun = {a.job_id for a in self.plan.actions if isinstance(a, StartLookup)}
        behind = [job for job in behind if job.job_id not in begun]
        self.plan.behind = len(behind)
        if not behind:
            return
        if self.workers.idle_now():
            self.start_behind(behind)
        short = self.fewest - len(self.pool.workers) - self.plan.grow
        if 0 < short <= self.workers.room:
            self.plan.grow += short
        coming = len(self.pool.workers) + self.plan.grow
        if len(self.workers.idle_now()) < self.fewest <= coming:
            self.workers.take_now(self.workers.idle_now())  # they wait for the others

    def start_behind(self, behind: Sequence[JobView]) -> None:
        ways = [(self.ways.cheapest(job, self.now, 0.5), job) for job in behind]
        for way, job in sorted(ways, key=lambda pair: (pair[0].gpu_s, pair[1].job_id)):
            idle = self.workers.idle_now()
            if len(idle) < way.workers:
                break
            self.workers.take_now(idle[: way.workers])
            self.workers.start(job, way, tuple(idle[: way.workers]))
