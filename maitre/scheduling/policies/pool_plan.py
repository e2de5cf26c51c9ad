"""Plans one pool: which job starts when, on how many workers, and what must start to load now.

Jobs are taken earliest deadline first. For each, the ways to meet its deadline are compared by the
GPU-seconds that they add: waiting for workers that come free, more workers, preempting a job that
can spare the time, new workers. Jobs that cannot meet their deadline go behind those that can.
"""

from bisect import insort
from collections.abc import Sequence

from maitre.scheduling.actions import PreemptJob, RejectJob, ResizeJob, StartJob, StartLookup
from maitre.scheduling.policies.availability import idle_workers
from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.overload import jobs_to_drop
from maitre.scheduling.policies.plan_parameters import PlanParameters, PoolPlan
from maitre.scheduling.policies.preemption import Victims, is_lost
from maitre.scheduling.policies.ways import Way, Ways
from maitre.scheduling.snapshot import JobView, Pool, RunningJob

_ROUNDING_S = 0.05
_LOOK_AHEAD_S = 60.0
_LOOKUP_OVERLAP = 0.2  # a lookup ahead may end this share of itself after its worker is wanted
_LATER = 1 << 20  # after idle workers that are free at the same time
_NEW = 1 << 21

# (deadline_s, job_id, job, from_s): a job to place, and when it can start at the earliest
_Waiting = tuple[float, str, JobView, float]


def plan_pool(pool: Pool, time_s: float, room: int, parameters: PlanParameters) -> PoolPlan:
    """Plan one pool at `time_s` as if there were GPUs enough.

    `grow` in the plan can exceed `room`: then the plan is not complete and the pool is crowded.
    """
    return _Planner(pool, time_s, room, 0.0, parameters).run()


def plan_crowded_pool(pool: Pool, time_s: float, room: int, parameters: PlanParameters) -> PoolPlan:
    """Plan a pool that gets fewer workers than it wants.

    More workers for a late job cost GPU time that others lack: only ways at most
    `crowded_dearest` times as dear as the cheapest are used, and the largest jobs are dropped.
    """
    return _Planner(pool, time_s, room, parameters.crowded_dearest, parameters).run()


class _Planner:
    """Plans one pool with at most `room` new workers; crowded where `dearest` is not 0."""

    def __init__(
        self, pool: Pool, time_s: float, room: int, dearest: float, parameters: PlanParameters
    ) -> None:
        self.pool = pool
        self.model = pool.model
        self.now = time_s
        self.crowded = dearest > 0
        self.dearest = dearest or float("inf")
        self.room = room if self.crowded else parameters.gpus
        self.room_limit = room
        self.p = parameters
        self.plan = PoolPlan()
        self.error = EstimateError(pool.completions)
        self.ways = Ways(pool.model, self.error, time_s, parameters)
        self.fewest = self.ways.speeds[0][0]  # workers of the cheapest way
        self.idle = idle_workers(pool)
        # (when it comes free, order, worker), rising; new workers have no id yet
        self.free: list[tuple[float, int, str]] = [
            (time_s, order, name) for order, name in enumerate(self.idle)
        ]
        self.rest_s: dict[str, float] = {}
        self.victims: Victims | None = None
        self.taken: set[str] = set()
        self.wanted_s: dict[str, float] = {}  # idle workers kept for a job, and from when

    def run(self) -> PoolPlan:
        """Plan the pool."""
        pool = self.pool
        if not (pool.queued or pool.lookups or pool.running):
            self.plan.spare = self.idle
            return self.plan
        for worker in pool.workers.values():
            if worker.state == "loading":
                insort(self.free, (worker.ready_s, _LATER, worker.worker))
        self.place_running()
        for view in pool.lookups.values():
            insort(self.free, (view.ends_s, _LATER, view.worker))
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
        self.plan.spare = self.idle_now()
        self.plan.spare.sort(key=self.idle.index)
        return self.plan

    # -- running jobs -------------------------------------------------------------------------

    def place_running(self) -> None:
        """Note when running jobs free their workers; rescue those that will be late."""
        now, left_of, quantile = self.now, self.error.left, self.p.finish_quantile
        sooner = self.p.release_quantile
        late: list[tuple[float, str, RunningJob]] = []
        for running in self.pool.running.values():
            job, from_s = running.job, running.progress_from_s
            starts_s = from_s if from_s > now else now
            done = job.iterations_done + (starts_s - from_s) / running.iteration_s
            rest_s = left_of(job, done, quantile) * running.iteration_s
            self.rest_s[job.job_id] = rest_s
            if starts_s + rest_s > job.deadline_s + _ROUNDING_S:
                late.append((job.deadline_s, job.job_id, running))
            else:
                free_s = starts_s + left_of(job, done, sooner) * running.iteration_s
                self.free += [(free_s, _LATER, name) for name in running.workers]
        self.free.sort()
        late.sort(key=lambda entry: entry[:2])
        for _, job_id, running in late:
            if self.reject_lost(running) or self.rescue(running):
                continue
            ends_s = max(now, running.progress_from_s) + self.rest_s[job_id]
            self.hold(running.workers, ends_s)

    def reject_lost(self, running: RunningJob) -> bool:
        if not self.p.reject_hopeless:
            return False
        if not is_lost(running, self.now, self.error, self.ways.fastest_s, self.p):
            return False
        job_id = running.job.job_id
        self.plan.actions += [PreemptJob(job_id), RejectJob(job_id)]
        self.taken.update(running.workers)
        self.hold(running.workers, self.now + _ROUNDING_S)
        return True

    def rescue(self, running: RunningJob) -> bool:
        """Move a job that will be late to more workers, the cheapest idle ones that save it."""
        job, now_count = running.job, len(running.workers)
        done = running.iterations_done(self.now)
        left = self.error.left(job, done, self.p.rescue_quantile)
        starts_s = max(self.now, running.progress_from_s)
        if starts_s + left * running.iteration_s <= job.deadline_s + _ROUNDING_S:
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
            self.hold(names, ends_s)
            return True
        return False

    # -- queued jobs --------------------------------------------------------------------------

    def place_all(self, waiting: Sequence[_Waiting]) -> list[JobView]:
        """Place jobs by deadline; the result are those to leave behind."""
        behind: list[JobView] = []
        dropped = self.drop(waiting) if self.crowded else frozenset()
        for deadline_s, job_id, job, from_s in waiting:
            if self.full():
                break
            lucky_s = self.ways.luckiest_s(job, from_s)
            if from_s + lucky_s > deadline_s:
                placed = self.reject(job)
            else:
                placed = job_id not in dropped and self.place(job, from_s, lucky_s)
            if not placed and job_id not in self.pool.lookups:
                behind.append(job)
        return behind

    def reject(self, job: JobView) -> bool:
        if not self.p.reject_hopeless or job.job_id not in self.pool.queued:
            return False
        self.plan.actions.append(RejectJob(job.job_id))
        return True

    def full(self) -> bool:
        """Whether no further job can change what is done now: they keep their place in the queue.

        Either more workers are wanted than there are, and the pool is to be planned as crowded;
        or it is, and every worker is taken for longer than a decision looks ahead.
        """
        if not self.crowded:
            return self.plan.grow > self.room_limit
        ahead_s = self.now + self.model.warm_up_s + _LOOK_AHEAD_S
        return self.room == 0 and bool(self.free) and self.free[0][0] > ahead_s

    def drop(self, waiting: Sequence[_Waiting]) -> frozenset[str]:
        """Where not all can be in time: the largest jobs, to leave behind."""
        demand = []
        for deadline_s, job_id, job, from_s in waiting:
            way = self.ways.cheapest(job, from_s, 0.5)
            if from_s + way.run_s <= deadline_s:
                demand.append((deadline_s, job_id, way.gpu_s))
        loaded_s = self.now + self.model.warm_up_s
        free_s = [at_s for at_s, _, _ in self.free] + [loaded_s] * self.room
        return jobs_to_drop(demand, free_s, self.p.usable_share)

    def place(self, job: JobView, from_s: float, lucky_s: float) -> bool:
        """Find the cheapest way that meets the deadline, surest first; False: there is none."""
        if self.no_worker_in_time(job.deadline_s - lucky_s, lucky_s):
            return False
        if self.soon(job, from_s):
            return True
        fallback = (0.5,) if self.crowded else self.p.fallback_quantiles
        return any(
            self.place_at(job, from_s, quantile) for quantile in (self.p.finish_quantile, *fallback)
        )

    def no_worker_in_time(self, latest_s: float, run_s: float) -> bool:
        """In a pool that cannot grow: whether neither waiting nor preempting can be in time."""
        if not self.crowded or self.room > 0 or not self.free or self.free[0][0] <= latest_s:
            return False
        return self.ranked_victims().none_until(self.now + run_s)

    def soon(self, job: JobView, from_s: float) -> bool:
        """The common case at once: the cheapest way, on the worker that comes free first."""
        if not self.free or self.fewest > 1:
            return False
        way = self.ways.cheapest(job, from_s, self.p.finish_quantile)
        start_s = max(from_s, self.free[0][0])
        if start_s + way.run_s > job.deadline_s:
            return False
        self.commit(job, way, start_s)
        return True

    def place_at(self, job: JobView, from_s: float, quantile: float) -> bool:
        """The cheapest way at one `quantile` of the job's iterations."""
        free, model = self.free, self.model
        ready_s = self.now + model.warm_up_s
        best_cost = float("inf")
        best: tuple[str, Way, float] | None = None
        ways = self.ways.all(job, from_s, quantile)
        dearest_s = self.dearest * ways[0].gpu_s
        for way in ways:
            if way.gpu_s >= best_cost or way.gpu_s > dearest_s:
                continue
            k = way.workers
            latest_s = job.deadline_s + _ROUNDING_S + 0.01 * way.run_s - way.run_s
            if k <= len(free):
                start_s = max(from_s, free[k - 1][0])
                if start_s <= latest_s:
                    held_s = sum(start_s - max(self.now, at_s) for at_s, _, _ in free[:k])
                    cost = way.gpu_s + (held_s if k > 1 else 0.0)
                    if cost < best_cost:
                        best_cost, best = cost, ("wait", way, start_s)
                    if k == 1:
                        continue
            new = k - sum(1 for at_s, _, _ in free[:k] if at_s <= ready_s)
            cost = way.gpu_s + new * model.warm_up_s
            if 0 < new <= self.room and ready_s <= latest_s and cost < best_cost:
                best_cost, best = cost, ("grow", way, max(ready_s, from_s))
            if self.p.preempt and from_s <= self.now <= latest_s:
                cost = way.gpu_s + k * model.resize_s
                if cost < best_cost and self.victim(way) is not None:
                    best_cost, best = cost, ("preempt", way, self.now)
        if best is None:
            return False
        kind, way, start_s = best
        if kind == "preempt":
            self.preempt_for(job, way)
            return True
        if kind == "grow":
            self.add_workers(way.workers, ready_s)
        self.commit(job, way, start_s)
        return True

    def add_workers(self, needed: int, ready_s: float) -> None:
        early = sum(1 for at_s, _, _ in self.free[:needed] if at_s <= ready_s)
        for _ in range(needed - early):
            insort(self.free, (ready_s, _NEW, ""))
            self.plan.grow += 1
            self.room -= 1

    def commit(self, job: JobView, way: Way, start_s: float) -> None:
        """Take the workers that come free first; start now what can start now."""
        used = self.free[: way.workers]
        del self.free[: way.workers]
        names = tuple(name for _, _, name in used)
        if start_s <= self.now and all(self.is_idle(name) for name in names):
            self.begin(job, way, names)
        else:
            self.wanted_s.update(dict.fromkeys(names, start_s))
        self.hold(names, start_s + max(self.ways.release_s(job, way), 0.001))

    def begin(self, job: JobView, way: Way, names: tuple[str, ...]) -> None:
        if way.lookup:
            self.plan.actions.append(StartLookup(job.job_id, names[0]))
        else:
            self.plan.actions.append(StartJob(job.job_id, names))
        self.taken.update(names)

    # -- preemption ---------------------------------------------------------------------------

    def ranked_victims(self) -> Victims:
        if self.victims is None:
            self.victims = Victims(self.pool, self.now, self.rest_s, self.error, self.p)
        return self.victims

    def victim(self, way: Way) -> RunningJob | None:
        """A running job on as many workers that can wait for this one and still be in time."""
        return self.ranked_victims().best(way.workers, self.now + way.run_s, self.taken)

    def preempt_for(self, job: JobView, way: Way) -> None:
        victim = self.victim(way)
        assert victim is not None
        self.plan.actions.append(PreemptJob(victim.job.job_id))
        self.free = [entry for entry in self.free if entry[2] not in victim.workers]
        self.begin(job, way, victim.workers)
        rest_s = self.model.resize_s + self.rest_s[victim.job.job_id]
        self.hold(victim.workers, self.now + way.run_s + rest_s)

    # -- what is left -------------------------------------------------------------------------

    def is_idle(self, name: str) -> bool:
        return name in self.pool.idle and name not in self.taken

    def idle_now(self) -> list[str]:
        return [name for at_s, _, name in self.free if at_s <= self.now and self.is_idle(name)]

    def take_now(self, names: Sequence[str]) -> None:
        self.free = [entry for entry in self.free if entry[2] not in names]
        self.taken.update(names)

    def hold(self, names: Sequence[str], until_s: float) -> None:
        for name in names:
            insort(self.free, (until_s, _LATER, name))

    def look_up_ahead(self, waiting: Sequence[_Waiting]) -> None:
        """Use idle workers that wait for others (a set of k is not complete): look up what comes.

        The lookup of a job that will start later costs nothing there, and shortens it.
        """
        ends_s = self.now + (1 - _LOOKUP_OVERLAP) * self.model.lookup_s
        kept = [name for name, at_s in self.wanted_s.items() if at_s >= ends_s]
        kept = [name for name in kept if self.is_idle(name)]
        begun = {
            action.job_id
            for action in self.plan.actions
            if isinstance(action, StartJob | StartLookup | RejectJob)
        }
        for _, job_id, job, from_s in waiting if kept else ():
            fresh = not (job.started or job.lookup_ended or from_s > self.now or job_id in begun)
            if fresh and self.ways.cheapest(job, from_s, 0.5).lookup:
                name = kept.pop()
                self.taken.add(name)
                self.plan.actions.append(StartLookup(job_id, name))
                if not kept:
                    return

    def place_behind(self, behind: Sequence[JobView]) -> None:
        """Hopeless jobs run on workers that nothing else needs, the shortest first."""
        begun = {a.job_id for a in self.plan.actions if isinstance(a, StartLookup)}
        behind = [job for job in behind if job.job_id not in begun]
        self.plan.behind = len(behind)
        if not behind:
            return
        if self.idle_now():
            self.start_behind(behind)
        short = self.fewest - len(self.pool.workers) - self.plan.grow
        if 0 < short <= self.room:
            self.plan.grow += short
        coming = len(self.pool.workers) + self.plan.grow
        if len(self.idle_now()) < self.fewest <= coming:
            self.take_now(self.idle_now())  # they wait for the others

    def start_behind(self, behind: Sequence[JobView]) -> None:
        ways = [(self.ways.cheapest(job, self.now, 0.5), job) for job in behind]
        for way, job in sorted(ways, key=lambda pair: (pair[0].gpu_s, pair[1].job_id)):
            idle = self.idle_now()
            if len(idle) < way.workers:
                break
            self.take_now(idle[: way.workers])
            self.begin(job, way, tuple(idle[: way.workers]))
