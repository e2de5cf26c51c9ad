"""An event-driven simulator of the cluster contract: a policy decides, the event log says it all.

Time is kept in whole milliseconds, so that what the log says is exactly what happened. Work under
way at one time stamp is settled before the policy is asked: finishes, lookups, loads, failures,
submissions. A decision costs `pace_s` of simulated time for every live job and worker before the
next can be taken, which is how a scheduler behaves whose decision takes time in proportion.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maitre.scheduling import actions as act
from maitre.scheduling.cluster import Cluster
from maitre.scheduling.errors import PolicyError
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job
from maitre.scheduling.outcome import Outcome
from maitre.scheduling.policy import Policy
from maitre.scheduling.snapshot import (
    Completion,
    JobView,
    LookupView,
    Pool,
    RunningJob,
    Snapshot,
    Worker,
)

# Order within one millisecond.
_FINISH, _LOOKUP_END, _READY, _FAIL = range(4)
_STALLED_MS = 2 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Simulation:
    """The event log of a run and its outcome."""

    events: list[Event]
    outcome: Outcome


class _Job:
    """The simulator's own record of a job, true counts included."""

    __slots__ = (
        "deadline_ms",
        "done",
        "epoch",
        "from_ms",
        "job",
        "need",
        "state",
        "view",
        "workers",
    )

    def __init__(self, job: Job) -> None:
        self.job = job
        self.deadline_ms = math.floor(job.deadline_s * 1000 + 1e-6)
        self.view = JobView(
            job.job_id,
            job.base_model,
            job.submitted_s,
            job.deadline_s,
            job.iterations_cold_estimate,
            job.iterations_bank_estimate,
        )
        self.state = "unsubmitted"
        self.need = float(job.iterations_cold)
        self.done = 0.0
        self.epoch = 0
        self.from_ms = 0
        self.workers: tuple[str, ...] = ()


class _Pool:
    """One base model's live collections; `view` shows them read-only to the policy."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.model = cluster.models[name]
        self.queued: dict[str, JobView] = {}
        self.lookups: dict[str, LookupView] = {}
        self.running: dict[str, RunningJob] = {}
        self.workers: dict[str, Worker] = {}
        self.idle: dict[str, Worker] = {}
        self.arrivals_s: list[float] = []
        self.completions: list[Completion] = []
        self.warm_up_ms = to_ms(self.model.warm_up_s)
        self.lookup_ms = to_ms(self.model.lookup_s)
        self.resize_ms = to_ms(self.model.resize_s)
        self.view = Pool(
            self.model,
            self.queued,
            self.lookups,
            self.running,
            self.workers,
            self.idle,
            self.arrivals_s,
            self.completions,
        )


def to_ms(seconds: float) -> int:
    """Whole milliseconds, never fewer than `seconds` (a millionth of one forgiven)."""
    return math.ceil(seconds * 1000 - 1e-6)


def simulate(
    jobs: Sequence[Job], cluster: Cluster, policy: Policy, *, seed: int = 0, pace_s: float = 1e-3
) -> Simulation:
    """Run `policy` on `jobs` until every job is finished or rejected, then stop the workers.

    `seed` draws worker failures. A failed worker's job is preempted with its progress (a soft
    prompt is checkpointed at every iteration) and its GPU is given back; a failure during a lookup
    shows when the lookup ends. Raises `PolicyError` for an action the cluster cannot take.
    """
    return _Run(jobs, cluster, policy, seed, pace_s).run()


class _Run:
    def __init__(
        self, jobs: Sequence[Job], cluster: Cluster, policy: Policy, seed: int, pace_s: float
    ) -> None:
        self.cluster = cluster
        self.policy = policy
        self.pace_ms = pace_s * 1000
        self.random = random.Random(seed)
        ordered = sorted(jobs, key=lambda job: job.submitted_s)
        self.arriving = [(to_ms(job.submitted_s), _Job(job)) for job in ordered]
        self.jobs = {record.job.job_id: record for _, record in self.arriving}
        self.pools = {name: _Pool(cluster, name) for name in cluster.models}
        self.pool_views = {name: pool.view for name, pool in self.pools.items()}
        self.blank: dict[str, Worker] = {}
        self.held: dict[str, int] = {}  # worker -> start, ms
        self.holder: dict[str, str | None] = {}  # worker -> its model
        self.on_worker: dict[str, str] = {}  # worker -> the job that runs on it
        self.doomed: set[str] = set()  # failed during a lookup
        self.load_epoch: dict[str, int] = {}
        self.heap: list[tuple[int, int, int, str, int]] = []
        self.sequence = 0
        self.now = 0
        self.wake_ms: int | None = None
        self.changed: set[str] = set()
        self.events: list[Event] = []
        self.open_jobs = len(self.arriving)
        self.worker_count = 0
        self.held_ms = self.busy_ms = self.lookup_ms = self.warming_ms = 0
        self.finished = self.late = self.rejected = 0
        self.preemptions = self.resizes = self.lookups = self.decisions = self.peak = 0

    # -- the loop ---------------------------------------------------------------------------

    def run(self) -> Simulation:
        next_arrival = 0
        earliest_decision = 0
        decision_due = False
        last_ms = max((ms for ms, _ in self.arriving), default=0)
        arriving, heap = self.arriving, self.heap
        while self.open_jobs:
            times = []
            if next_arrival < len(arriving):
                times.append(arriving[next_arrival][0])
            if heap:
                times.append(heap[0][0])
            if decision_due:
                times.append(max(earliest_decision, self.now))
            elif self.wake_ms is not None:
                times.append(max(self.wake_ms, earliest_decision, self.now))
            if not times or min(times) > last_ms + _STALLED_MS:
                break
            self.now = now = min(times)
            while heap and heap[0][0] == now:
                decision_due |= self.settle(heapq.heappop(heap))
            while next_arrival < len(arriving) and arriving[next_arrival][0] == now:
                self.submit(arriving[next_arrival][1])
                next_arrival += 1
                decision_due = True
            if self.wake_ms is not None and self.wake_ms <= now:
                decision_due = True
            if decision_due and now >= earliest_decision and self.open_jobs:
                decision_due = False
                live = self.decide()
                earliest_decision = now + round(live * self.pace_ms)
        self.close()
        return Simulation(self.events, self.outcome())

    def settle(self, entry: tuple[int, int, int, str, int]) -> bool:
        """Carry out one due event; False when it has been overtaken."""
        _, kind, _, name, epoch = entry
        if kind == _FINISH:
            if self.jobs[name].epoch != epoch:
                return False
            self.finish(self.jobs[name])
        elif kind == _LOOKUP_END:
            self.end_lookup(self.jobs[name])
        elif kind == _READY:
            if name not in self.held or self.load_epoch[name] != epoch:
                return False
            self.ready(name)
        else:
            if name not in self.held:
                return False
            self.fail(name)
        return True

    def decide(self) -> int:
        self.decisions += 1
        self.wake_ms = None
        snapshot = Snapshot(
            self.now / 1000,
            self.cluster,
            self.pool_views,
            self.blank,
            len(self.held),
            frozenset(self.changed),
        )
        self.changed.clear()
        live = len(self.held) + sum(
            len(pool.queued) + len(pool.running) for pool in self.pools.values()
        )
        for action in self.policy.decide(snapshot):
            _APPLY[type(action)](self, action)
        self.peak = max(self.peak, len(self.held))
        return live

    def log(self, kind: str, worker: str = "", job_id: str = "", base_model: str = "") -> None:
        self.events.append(Event(self.now, kind, worker, job_id, base_model))

    def push(self, time_ms: int, kind: int, name: str, epoch: int = 0) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (time_ms, kind, self.sequence, name, epoch))

    # -- what happens by itself ---------------------------------------------------------------

    def submit(self, record: _Job) -> None:
        record.state = "queued"
        pool = self.pools[record.job.base_model]
        pool.queued[record.job.job_id] = record.view
        pool.arrivals_s.append(self.now / 1000)
        self.changed.add(record.job.base_model)

    def finish(self, record: _Job) -> None:
        job = record.job
        pool = self.pools[job.base_model]
        self.log("job_finish", ";".join(record.workers), job.job_id, job.base_model)
        self.release(pool, record)
        record.state = "finished"
        late = self.now > record.deadline_ms
        self.finished += 1
        self.late += late
        self.open_jobs -= 1
        del pool.running[job.job_id]
        banked = record.view.lookup_ended
        pool.completions.append(
            Completion(self.now / 1000, banked, record.view.iterations_estimate, record.need, late)
        )
        self.changed.add(job.base_model)

    def end_lookup(self, record: _Job) -> None:
        job = record.job
        pool = self.pools[job.base_model]
        lookup = pool.lookups.pop(job.job_id)
        self.log("lookup_end", lookup.worker, job.job_id, job.base_model)
        self.lookup_ms += pool.lookup_ms
        record.state = "queued"
        record.view = replace(record.view, lookup_ended=True)
        record.need = float(job.iterations_bank)
        pool.queued[job.job_id] = record.view
        self.make_idle(pool, lookup.worker)
        if lookup.worker in self.doomed:
            self.doomed.discard(lookup.worker)
            self.drop(lookup.worker)
        self.changed.add(job.base_model)

    def ready(self, name: str) -> None:
        model = self.holder[name]
        assert model is not None
        pool = self.pools[model]
        self.log("worker_ready", name, "", model)
        self.warming_ms += pool.warm_up_ms
        self.make_idle(pool, name, ready=True)
        self.changed.add(model)

    def fail(self, name: str) -> None:
        model = self.holder[name]
        if model is not None:
            state = self.pools[model].workers[name].state
            if state == "lookup":
                self.doomed.add(name)
                return
            if state == "running":
                self.preempt(act.PreemptJob(self.on_worker[name]))
            if state == "loading":
                loaded = self.now - round(self.pools[model].workers[name].since_s * 1000)
                self.warming_ms += loaded
        self.drop(name)

    def make_idle(self, pool: _Pool, name: str, *, ready: bool = False) -> None:
        now_s = self.now / 1000
        ready_s = now_s if ready else pool.workers[name].ready_s
        worker = Worker(name, pool.model.name, "idle", now_s, ready_s)
        pool.workers[name] = worker
        pool.idle[name] = worker

    def release(self, pool: _Pool, record: _Job) -> None:
        """Free the workers of a running job and account for their time."""
        for name in record.workers:
            worker = pool.workers[name]
            self.busy_ms += self.now - round(worker.since_s * 1000)
            del self.on_worker[name]
            self.make_idle(pool, name)
        record.workers = ()
        record.epoch += 1

    def drop(self, name: str) -> None:
        """Give a worker's GPU back and forget it."""
        model = self.holder.pop(name)
        self.log("worker_stop", name, "", model or "")
        if model is None:
            del self.blank[name]
        else:
            pool = self.pools[model]
            del pool.workers[name]
            pool.idle.pop(name, None)
            self.changed.add(model)
        self.held_ms += self.now - self.held.pop(name)

    # -- what the policy asks for -------------------------------------------------------------

    def start_workers(self, action: act.StartWorkers) -> None:
        if action.count < 1 or len(self.held) + action.count > self.cluster.gpus:
            raise PolicyError(f"{action}: {len(self.held)} of {self.cluster.gpus} GPUs are held")
        for _ in range(action.count):
            self.worker_count += 1
            name = f"w{self.worker_count}"
            self.held[name] = self.now
            self.holder[name] = None
            self.log("worker_start", name)
            self.blank[name] = Worker(name, None, "blank", self.now / 1000, math.inf)
            if self.cluster.failures_per_worker_hour > 0:
                life_s = self.random.expovariate(self.cluster.failures_per_worker_hour / 3600)
                self.push(self.now + max(1, to_ms(life_s)), _FAIL, name)
            if action.base_model is not None:
                self.load(act.LoadModel(name, action.base_model))

    def load(self, action: act.LoadModel) -> None:
        name = action.worker
        if name in self.blank:
            del self.blank[name]
        else:
            held = self.holder.get(name)
            if held is None or name not in self.pools[held].idle:
                raise PolicyError(f"{action}: the worker is not idle")
            del self.pools[held].workers[name]
            del self.pools[held].idle[name]
            self.changed.add(held)
        pool = self.pools[action.base_model]
        self.holder[name] = action.base_model
        now_s = self.now / 1000
        ready_ms = self.now + pool.warm_up_ms
        pool.workers[name] = Worker(name, action.base_model, "loading", now_s, ready_ms / 1000)
        self.log("worker_load", name, "", action.base_model)
        epoch = self.load_epoch[name] = self.load_epoch.get(name, 0) + 1
        self.push(ready_ms, _READY, name, epoch)
        self.changed.add(action.base_model)

    def stop_worker(self, action: act.StopWorker) -> None:
        model = self.holder.get(action.worker)
        idle = action.worker in (self.blank if model is None else self.pools[model].idle)
        if not idle:
            raise PolicyError(f"{action}: the worker is not idle")
        self.drop(action.worker)

    def start_lookup(self, action: act.StartLookup) -> None:
        record, pool = self.queued(action)
        if record.view.started or record.view.lookup_ended:
            raise PolicyError(f"{action}: the job has started or has been looked up")
        self.occupy(pool, (action.worker,), "lookup", action)
        del pool.queued[action.job_id]
        ends_ms = self.now + pool.lookup_ms
        pool.lookups[action.job_id] = LookupView(record.view, action.worker, ends_ms / 1000)
        record.state = "lookup"
        self.lookups += 1
        self.log("lookup_start", action.worker, action.job_id, record.job.base_model)
        self.push(ends_ms, _LOOKUP_END, action.job_id)
        self.changed.add(record.job.base_model)

    def start_job(self, action: act.StartJob) -> None:
        record, pool = self.queued(action)
        if len(action.workers) not in pool.model.iteration_s:
            raise PolicyError(f"{action}: {len(action.workers)} workers is not allowed")
        self.occupy(pool, action.workers, "running", action)
        del pool.queued[action.job_id]
        again = record.view.started
        record.view = replace(record.view, started=True)
        record.state = "running"
        self.log("job_start", ";".join(action.workers), action.job_id, record.job.base_model)
        self.go_on(pool, record, action.workers, pool.resize_ms if again else 0)

    def resize(self, action: act.ResizeJob) -> None:
        record = self.jobs[action.job_id]
        if record.state != "running":
            raise PolicyError(f"{action}: the job is not running")
        pool = self.pools[record.job.base_model]
        if len(action.workers) not in pool.model.iteration_s:
            raise PolicyError(f"{action}: {len(action.workers)} workers is not allowed")
        self.keep_progress(pool, record)
        self.release(pool, record)
        self.occupy(pool, action.workers, "running", action)
        self.resizes += 1
        self.log("job_resize", ";".join(action.workers), action.job_id, record.job.base_model)
        self.go_on(pool, record, action.workers, pool.resize_ms)

    def preempt(self, action: act.PreemptJob) -> None:
        record = self.jobs[action.job_id]
        if record.state != "running":
            raise PolicyError(f"{action}: the job is not running")
        pool = self.pools[record.job.base_model]
        self.keep_progress(pool, record)
        workers = record.workers
        self.release(pool, record)
        self.preemptions += 1
        self.log("job_preempt", ";".join(workers), action.job_id, record.job.base_model)
        del pool.running[action.job_id]
        record.state = "queued"
        record.view = replace(record.view, iterations_done=record.done)
        pool.queued[action.job_id] = record.view
        self.changed.add(record.job.base_model)

    def reject(self, action: act.RejectJob) -> None:
        record, pool = self.queued(action)
        del pool.queued[action.job_id]
        record.state = "rejected"
        self.rejected += 1
        self.open_jobs -= 1
        self.log("job_reject", "", action.job_id, record.job.base_model)
        self.changed.add(record.job.base_model)

    def wait_until(self, action: act.WaitUntil) -> None:
        wake_ms = max(self.now + 1, to_ms(action.time_s))
        self.wake_ms = wake_ms if self.wake_ms is None else min(self.wake_ms, wake_ms)

    # -- shared steps -------------------------------------------------------------------------

    def queued(self, action: act.StartLookup | act.StartJob | act.RejectJob) -> tuple[_Job, _Pool]:
        record = self.jobs.get(action.job_id)
        if record is None or record.state != "queued":
            raise PolicyError(f"{action}: the job is not in the queue")
        return record, self.pools[record.job.base_model]

    def occupy(self, pool: _Pool, names: tuple[str, ...], state: str, action: act.Action) -> None:
        now_s = self.now / 1000
        for name in names:
            worker = pool.idle.pop(name, None)
            if worker is None:
                raise PolicyError(f"{action}: worker {name} is not ready and free")
            pool.workers[name] = Worker(
                name,
                worker.base_model,
                "lookup" if state == "lookup" else "running",
                now_s,
                worker.ready_s,
            )

    def keep_progress(self, pool: _Pool, record: _Job) -> None:
        elapsed_ms = max(0, self.now - record.from_ms)
        iteration_s = pool.model.iteration_s[len(record.workers)]
        record.done += elapsed_ms / 1000 / iteration_s

    def go_on(self, pool: _Pool, record: _Job, workers: tuple[str, ...], penalty_ms: int) -> None:
        """Let the job make progress on `workers` after the resize cost, and plan its finish."""
        iteration_s = pool.model.iteration_s[len(workers)]
        record.workers = workers
        record.from_ms = self.now + penalty_ms
        record.epoch += 1
        record.view = replace(record.view, iterations_done=record.done)
        for name in workers:
            self.on_worker[name] = record.job.job_id
        pool.running[record.job.job_id] = RunningJob(
            record.view, workers, record.from_ms / 1000, iteration_s
        )
        left_s = max(0.0, record.need - record.done) * iteration_s
        self.push(record.from_ms + to_ms(left_s), _FINISH, record.job.job_id, record.epoch)
        self.changed.add(record.job.base_model)

    def close(self) -> None:
        """Stop what is still held: nothing is left to do (or the policy will never do it)."""
        for pool in self.pools.values():
            for job_id in list(pool.running):
                self.preempt(act.PreemptJob(job_id))
        for name in list(self.held):
            model = self.holder[name]
            if model is not None:
                worker = self.pools[model].workers[name]
                if worker.state == "loading":
                    self.warming_ms += self.now - round(worker.since_s * 1000)
            self.drop(name)

    def outcome(self) -> Outcome:
        hour_ms = 3_600_000
        unfinished = self.open_jobs
        violations = self.late + self.rejected + unfinished
        first_ms = self.arriving[0][0] if self.arriving else 0
        idle_ms = self.held_ms - self.busy_ms - self.lookup_ms - self.warming_ms
        return Outcome(
            policy=self.policy.name,
            jobs=len(self.jobs),
            finished=self.finished,
            late=self.late,
            rejected=self.rejected,
            unfinished=unfinished,
            violations=violations,
            violation_rate=violations / max(1, len(self.jobs)),
            gpu_hours=self.held_ms / hour_ms,
            cost=self.held_ms / hour_ms * self.cluster.gpu_price_per_hour,
            busy_gpu_hours=self.busy_ms / hour_ms,
            lookup_gpu_hours=self.lookup_ms / hour_ms,
            warming_gpu_hours=self.warming_ms / hour_ms,
            idle_gpu_hours=idle_ms / hour_ms,
            worker_starts=self.worker_count,
            preemptions=self.preemptions,
            resizes=self.resizes,
            lookups=self.lookups,
            peak_gpus=self.peak,
            makespan_s=(self.now - first_ms) / 1000,
            decisions=self.decisions,
        )


_APPLY: dict[type, Callable[[_Run, Any], None]] = {
    act.StartWorkers: _Run.start_workers,
    act.LoadModel: _Run.load,
    act.StopWorker: _Run.stop_worker,
    act.StartLookup: _Run.start_lookup,
    act.StartJob: _Run.start_job,
    act.ResizeJob: _Run.resize,
    act.PreemptJob: _Run.preempt,
    act.RejectJob: _Run.reject,
    act.WaitUntil: _Run.wait_until,
}
