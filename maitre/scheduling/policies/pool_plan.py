"""Plans one pool: which job starts when, on how many workers, and what must start to load now.

Jobs are taken earliest deadline first. For each, the ways to meet its deadline are compared by the
GPU-seconds that they add: waiting for workers that come free, more workers, preempting a job that
can spare the time, new workers. Jobs that cannot meet their deadline go behind those that can.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from maitre.scheduling.actions import (
    Action,
    PreemptJob,
    ResizeJob,
    StartJob,
    StartLookup,
)
from maitre.scheduling.policies.availability import idle_workers
from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.overload import jobs_to_drop
from maitre.scheduling.snapshot import JobView, Pool, RunningJob

_ROUNDING_S = 0.05
_LOOK_AHEAD_S = 60.0
_LATER = 1 << 20  # after idle workers that are free at the same time
_NEW = 1 << 21


@dataclass(frozen=True, slots=True)
class PlanParameters:
    """What the plan may assume; see `Maitre`."""

    finish_quantile: float
    fallback_quantiles: tuple[float, ...]
    hopeless_quantile: float
    rescue_quantile: float
    preempt: bool
    lookup: bool
    usable_share: float
    gpus: int
    crowded_dearest: float


@dataclass(slots=True)
class PoolPlan:
    """The outcome: actions to take, how many workers to load, and who stays reserved."""

    actions: list[Action] = field(default_factory=list)
    grow: int = 0
    spare: list[str] = field(default_factory=list)  # idle workers that nothing needs, best first
    behind: int = 0  # queued jobs that are not expected to be in time


class _Way(NamedTuple):
    """One way to run a job: on `workers`, with or without a lookup first."""

    workers: int
    lookup: bool
    run_s: float
    gpu_s: float


class _Planner:
    """Plans one pool with at most `room` new workers; `crowded`: there are too few GPUs."""

    def __init__(
        self,
        pool: Pool,
        time_s: float,
        room: int,
        dearest: float,
        parameters: PlanParameters,
    ) -> None:
        self.pool = pool
        self.model = pool.model
        self.now = time_s
        self.room = room if dearest else parameters.gpus
        self.room_limit = room
        self.p = parameters
        self.error = EstimateError(pool.completions)
        self.plan = PoolPlan()
        self.idle = idle_workers(pool)
        # (when it comes free, order, worker), rising; new workers have no id yet
        self.free: list[tuple[float, int, str]] = [
            (time_s, order, name) for order, name in enumerate(self.idle)
        ]
        self.rest_s: dict[str, float] = {}
        self.ratios: dict[tuple[bool, float], float] = {}
        self.patience: dict[int, list[tuple[float, str, RunningJob]]] | None = None
        self.speeds = [(k, pool.model.iteration_s[k]) for k in pool.model.counts_by_cost]
        self.fastest_s = min(pool.model.iteration_s.values())
        self.lucky = {
            banked: self.ratio(banked, parameters.hopeless_quantile) for banked in (False, True)
        }
        self.taken: set[str] = set()
        self.crowded = dearest > 0
        self.dearest = dearest or float("inf")

    # -- the whole plan -----------------------------------------------------------------------

    def lost(self, running: RunningJob) -> bool:
        """Whether a running job will be late even if it is lucky."""
        done = running.iterations_done(self.now)
        left = self.error.left(running.job, done, self.p.hopeless_quantile)
        return self.now + left * self.fastest_s > running.job.deadline_s

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
        behind: list[JobView] = []
        waiting = [(job.deadline_s, job.job_id, job, self.now) for job in pool.queued.values()]
        waiting += [
            (view.job.deadline_s, view.job.job_id, view.job, view.ends_s)
            for view in pool.lookups.values()
        ]
        for view in pool.lookups.values():
            insort(self.free, (view.ends_s, _LATER, view.worker))
        waiting.sort()
        dropped = self.drop(waiting) if self.crowded else frozenset()
        for _, job_id, job, from_s in waiting:
            if self.full():
                break
            placed = job_id not in dropped and self.place(job, from_s)
            if not placed and job_id not in pool.lookups:
                behind.append(job)
        self.place_behind(behind)
        self.plan.spare = [
            name for at_s, _, name in self.free if at_s <= self.now and self.is_idle(name)
        ]
        self.plan.spare.sort(key=self.idle.index)
        return self.plan

    def full(self) -> bool:
        """Whether no further job can change what is done now: they keep their place in the queue.

        Either more workers are wanted than there are, and the pool is to be planned as crowded;
        or it is, and every worker is taken for longer than a decision looks ahead.
        """
        if not self.crowded:
            return self.plan.grow > self.room_limit
        ahead_s = self.now + self.model.warm_up_s + _LOOK_AHEAD_S
        return self.room == 0 and bool(self.free) and self.free[0][0] > ahead_s

    def drop(self, waiting: Sequence[tuple[float, str, JobView, float]]) -> frozenset[str]:
        """Where not all can be in time: the largest jobs, to leave behind."""
        demand = []
        for deadline_s, job_id, job, from_s in waiting:
            way = self.cheapest(job, from_s, 0.5)
            if from_s + way.run_s <= deadline_s:
                demand.append((deadline_s, job_id, way.gpu_s))
        loaded_s = self.now + self.model.warm_up_s
        free_s = [at_s for at_s, _, _ in self.free] + [loaded_s] * self.room
        return jobs_to_drop(demand, free_s, self.p.usable_share)

    def place_running(self) -> None:
        """Note when running jobs free their workers; rescue those that will be late."""
        now, left_of, quantile = self.now, self.error.left, self.p.finish_quantile
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
                self.free += [(starts_s + rest_s, _LATER, name) for name in running.workers]
        self.free.sort()
        late.sort(key=lambda entry: entry[:2])
        for _, job_id, running in late:
            if self.will_be_late(running) and self.rescue(running):
                continue
            ends_s = max(now, running.progress_from_s) + self.rest_s[job_id]
            for name in running.workers:
                insort(self.free, (ends_s, _LATER, name))

    def will_be_late(self, running: RunningJob) -> bool:
        done = running.iterations_done(self.now)
        left = self.error.left(running.job, done, self.p.rescue_quantile)
        ends_s = max(self.now, running.progress_from_s) + left * running.iteration_s
        return ends_s > running.job.deadline_s + _ROUNDING_S

    def rescue(self, running: RunningJob) -> bool:
        """Move a job that will be late to more workers, the cheapest set that saves it."""
        done = running.iterations_done(self.now)
        left = self.error.left(running.job, done, self.p.rescue_quantile)
        job, now_count = running.job, len(running.workers)
        for workers in self.model.counts_by_cost:
            if workers <= now_count:
                continue
            ends_s = self.now + self.model.resize_s + left * self.model.iteration_s[workers]
            if ends_s > job.deadline_s:
                continue
            idle = self.idle_now()
            if len(idle) < workers - now_count:
                continue
            names = (*running.workers, *idle[: workers - now_count])
            self.take_now(idle[: workers - now_count])
            self.plan.actions.append(ResizeJob(job.job_id, names))
            for name in names:
                insort(self.free, (ends_s, _LATER, name))
            return True
        return False

    # -- one queued job -----------------------------------------------------------------------

    def place(self, job: JobView, from_s: float) -> bool:
        """Find the cheapest way that meets the deadline, surest first; False: it is hopeless."""
        run_s = self.luckiest_s(job, from_s)
        latest_s = job.deadline_s - run_s
        if from_s > latest_s or self.no_worker_in_time(latest_s, run_s):
            return False
        if self.soon(job, from_s):
            return True
        fallback = (0.5,) if self.crowded else self.p.fallback_quantiles
        for quantile in (self.p.finish_quantile, *fallback):
            if self.place_at(job, from_s, quantile):
                return True
        return False

    def luckiest_s(self, job: JobView, from_s: float) -> float:
        """The run time on the fastest number of workers, warm, with a lucky count."""
        model = self.model
        if job.started:
            left = self.error.left(job, job.iterations_done, self.p.hopeless_quantile)
            return model.resize_s + left * self.fastest_s
        bank_s = job.iterations_bank_estimate * self.lucky[True] * self.fastest_s
        if job.lookup_ended or from_s > self.now:
            return bank_s
        cold_s = job.iterations_cold_estimate * self.lucky[False] * self.fastest_s
        return min(cold_s, model.lookup_s + bank_s) if self.p.lookup else cold_s

    def no_worker_in_time(self, latest_s: float, run_s: float) -> bool:
        """In a pool that cannot grow: whether neither waiting nor preempting can be in time."""
        if not self.crowded or self.room > 0 or not self.free or self.free[0][0] <= latest_s:
            return False
        if self.patience is None:
            self.patience = self.rank_running()
        return all(
            not ranked or ranked[-1][0] <= self.now + run_s for ranked in self.patience.values()
        )

    def ways(self, job: JobView, from_s: float, quantile: float) -> list[_Way]:
        """The ways to run the job, about cheapest first, none dearer than is allowed."""
        ways = self.all_ways(job, from_s, quantile)
        if self.dearest < float("inf"):
            limit_s = ways[0].gpu_s * self.dearest
            return [way for way in ways if way.gpu_s <= limit_s]
        return ways

    def all_ways(self, job: JobView, from_s: float, quantile: float) -> list[_Way]:
        """Every number of workers, cheapest first; a fresh job with a lookup and without."""
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            resume_s = self.model.resize_s
        elif job.lookup_ended or from_s > self.now:
            left = job.iterations_bank_estimate * self.ratio(True, quantile)
            resume_s = 0.0
        else:
            return self.fresh_ways(job, quantile)
        return [
            _Way(k, False, left * iteration_s + resume_s, k * (left * iteration_s + resume_s))
            for k, iteration_s in self.speeds
        ]

    def fresh_ways(self, job: JobView, quantile: float) -> list[_Way]:
        cold = job.iterations_cold_estimate * self.ratio(False, quantile)
        bank = job.iterations_bank_estimate * self.ratio(True, quantile)
        lookup_s = self.model.lookup_s
        ways = []
        for k, iteration_s in self.speeds:
            cold_s, bank_s = cold * iteration_s, bank * iteration_s
            cold_way = _Way(k, False, cold_s, k * cold_s)
            if not self.p.lookup:
                ways.append(cold_way)
                continue
            bank_way = _Way(k, True, lookup_s + bank_s, lookup_s + k * bank_s)
            if bank_way.gpu_s <= cold_way.gpu_s:
                ways += (bank_way, cold_way)
            else:
                ways += (cold_way, bank_way)
        return ways

    def cheapest(self, job: JobView, from_s: float, quantile: float) -> _Way:
        """The cheapest way alone: the first of `all_ways`, at a fraction of the time."""
        k, iteration_s = self.speeds[0]
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            run_s = left * iteration_s + self.model.resize_s
            return _Way(k, False, run_s, k * run_s)
        bank_s = job.iterations_bank_estimate * self.ratio(True, quantile) * iteration_s
        if job.lookup_ended or from_s > self.now:
            return _Way(k, False, bank_s, k * bank_s)
        cold_s = job.iterations_cold_estimate * self.ratio(False, quantile) * iteration_s
        lookup_s = self.model.lookup_s
        if self.p.lookup and lookup_s + k * bank_s <= k * cold_s:
            return _Way(k, True, lookup_s + bank_s, lookup_s + k * bank_s)
        return _Way(k, False, cold_s, k * cold_s)

    def ratio(self, banked: bool, quantile: float) -> float:
        known = self.ratios.get((banked, quantile))
        if known is None:
            known = self.ratios[banked, quantile] = self.error.quantile(banked, quantile)
        return known

    def soon(self, job: JobView, from_s: float) -> bool:
        """The common case at once: the cheapest way, on the worker that comes free first."""
        if not self.free or self.speeds[0][0] > 1:
            return False
        way = self.cheapest(job, from_s, self.p.finish_quantile)
        start_s = max(from_s, self.free[0][0])
        if start_s + way.run_s > job.deadline_s:
            return False
        self.commit(job, way, start_s)
        return True

    def place_at(self, job: JobView, from_s: float, quantile: float) -> bool:
        free, model = self.free, self.model
        ready_s = self.now + model.warm_up_s
        best_cost = float("inf")
        best: tuple[str, _Way, float] | None = None
        for way in self.ways(job, from_s, quantile):
            if way.gpu_s >= best_cost:
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
        else:
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

    def commit(self, job: JobView, way: _Way, start_s: float) -> None:
        """Take the workers that come free first; start now what can start now."""
        used = self.free[: way.workers]
        del self.free[: way.workers]
        if start_s <= self.now and all(self.is_idle(name) for _, _, name in used):
            names = tuple(name for _, _, name in used)
            self.begin(job, way, names)
        for _, _, name in used:
            insort(self.free, (start_s + max(way.run_s, 0.001), _LATER, name))

    def begin(self, job: JobView, way: _Way, names: tuple[str, ...]) -> None:
        if way.lookup:
            self.plan.actions.append(StartLookup(job.job_id, names[0]))
        else:
            self.plan.actions.append(StartJob(job.job_id, names))
        self.taken.update(names)

    # -- preemption ---------------------------------------------------------------------------

    def victim(self, way: _Way) -> RunningJob | None:
        """A running job on as many workers that can wait for this one and still be in time."""
        if self.patience is None:
            self.patience = self.rank_running()
        ranked = self.patience.get(way.workers, [])
        while ranked and self.taken.intersection(ranked[-1][2].workers):
            ranked.pop()
        if ranked and ranked[-1][0] > self.now + way.run_s:
            return ranked[-1][2]
        return None

    def rank_running(self) -> dict[int, list[tuple[float, str, RunningJob]]]:
        """By number of workers: until when each running job could be resumed, rising."""
        ranked: dict[int, list[tuple[float, str, RunningJob]]] = {}
        for running in self.pool.running.values():
            if running.progress_from_s > self.now:
                continue
            if self.lost(running):
                until_s = float("inf")
            else:
                rest_s = self.model.resize_s + self.rest_s[running.job.job_id]
                until_s = running.job.deadline_s - rest_s
            entry = (until_s, running.job.job_id, running)
            ranked.setdefault(len(running.workers), []).append(entry)
        for entries in ranked.values():
            entries.sort(key=lambda entry: entry[:2])
        return ranked

    def preempt_for(self, job: JobView, way: _Way) -> None:
        victim = self.victim(way)
        assert victim is not None
        self.plan.actions.append(PreemptJob(victim.job.job_id))
        freed_s = self.now + self.rest_s[victim.job.job_id]
        for name in victim.workers:
            at = bisect_left(self.free, (freed_s, _LATER, name))
            if at < len(self.free) and self.free[at][2] == name:
                del self.free[at]
            else:
                self.free = [entry for entry in self.free if entry[2] != name]
        self.begin(job, way, victim.workers)
        rest_s = self.model.resize_s + self.rest_s[victim.job.job_id]
        ends_s = self.now + way.run_s + rest_s
        for name in victim.workers:
            insort(self.free, (ends_s, _LATER, name))

    # -- what is left -------------------------------------------------------------------------

    def is_idle(self, name: str) -> bool:
        return name in self.pool.idle and name not in self.taken

    def idle_now(self) -> list[str]:
        return [name for at_s, _, name in self.free if at_s <= self.now and self.is_idle(name)]

    def take_now(self, names: list[str]) -> None:
        self.free = [entry for entry in self.free if entry[2] not in names]
        self.taken.update(names)

    def place_behind(self, behind: list[JobView]) -> None:
        """Hopeless jobs run on workers that nothing else needs, the shortest first."""
        self.plan.behind = len(behind)
        if not behind:
            return
        if self.idle_now():
            self.start_behind(behind)
        fewest = self.model.counts_by_cost[0]
        short = fewest - len(self.pool.workers) - self.plan.grow
        if 0 < short <= self.room:
            self.plan.grow += short
        coming = len(self.pool.workers) + self.plan.grow
        if len(self.idle_now()) < fewest <= coming:
            self.take_now(self.idle_now())  # they wait for the others

    def start_behind(self, behind: Sequence[JobView]) -> None:
        ways = [(self.cheapest(job, self.now, 0.5), job) for job in behind]
        for way, job in sorted(ways, key=lambda pair: (pair[0].gpu_s, pair[1].job_id)):
            idle = self.idle_now()
            if len(idle) < way.workers:
                break
            self.take_now(idle[: way.workers])
            self.begin(job, way, tuple(idle[: way.workers]))


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
