"""The simulated cluster: jobs, pools, workers, the event log, and the steps that change them.

Times are whole milliseconds. The simulator's loop and a policy's actions both work through these
steps, so that the log, the policy's view and the accounts always say the same.
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import replace

from maitre.scheduling.cluster import Cluster
from maitre.scheduling.errors import PolicyError
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job
from maitre.scheduling.snapshot import (
    Completion,
    JobView,
    LookupView,
    Pool,
    RunningJob,
    Worker,
)

# What can fall due, in its order within one millisecond.
FINISH, LOOKUP_END, READY, FAIL = range(4)


class JobRecord:
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


class PoolRecord:
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
    """Return whole milliseconds, at least `seconds` (a millionth of one is forgiven)."""
    return math.ceil(seconds * 1000 - 1e-6)


class ClusterState:
    """Everything that a run changes."""

    def __init__(self, jobs: Sequence[Job], cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        ordered = sorted(jobs, key=lambda job: job.submitted_s)
        self.arriving = [(to_ms(job.submitted_s), JobRecord(job)) for job in ordered]
        self.jobs = {record.job.job_id: record for _, record in self.arriving}
        self.pools = {name: PoolRecord(cluster, name) for name in cluster.models}
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

    def log(self, kind: str, worker: str = "", job_id: str = "", base_model: str = "") -> None:
        """Add a row to the event log."""
        self.events.append(Event(self.now, kind, worker, job_id, base_model))

    def push(self, time_ms: int, kind: int, name: str, epoch: int = 0) -> None:
        """Plan an event of a job or worker at `time_ms`; another `epoch` by then cancels it."""
        self.sequence += 1
        heapq.heappush(self.heap, (time_ms, kind, self.sequence, name, epoch))

    def make_idle(self, pool: PoolRecord, name: str, *, ready: bool = False) -> None:
        """Make a worker idle; `ready`: it has just loaded its model."""
        now_s = self.now / 1000
        ready_s = now_s if ready else pool.workers[name].ready_s
        worker = Worker(name, pool.model.name, "idle", now_s, ready_s)
        pool.workers[name] = worker
        pool.idle[name] = worker

    def release(self, pool: PoolRecord, record: JobRecord) -> None:
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

    def occupy(self, pool: PoolRecord, names: tuple[str, ...], state: str, action: object) -> None:
        """Take idle workers for a lookup or a run. Raises `PolicyError` for one not idle."""
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

    def keep_progress(self, pool: PoolRecord, record: JobRecord) -> None:
        """Credit a running job with what it has done on its present workers."""
        elapsed_ms = max(0, self.now - record.from_ms)
        iteration_s = pool.model.iteration_s[len(record.workers)]
        record.done += elapsed_ms / 1000 / iteration_s

    def go_on(
        self, pool: PoolRecord, record: JobRecord, workers: tuple[str, ...], penalty_ms: int
    ) -> None:
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
        self.push(record.from_ms + to_ms(left_s), FINISH, record.job.job_id, record.epoch)
        self.changed.add(record.job.base_model)

    def preempt(self, job_id: str) -> None:
        """Put a running job back into the queue, its progress kept; its workers are idle."""
        record = self.jobs[job_id]
        if record.state != "running":
            raise PolicyError(f"preempt {job_id}: the job is not running")
        pool = self.pools[record.job.base_model]
        self.keep_progress(pool, record)
        workers = record.workers
        self.release(pool, record)
        self.preemptions += 1
        self.log("job_preempt", ";".join(workers), job_id, record.job.base_model)
        del pool.running[job_id]
        record.state = "queued"
        record.view = replace(record.view, iterations_done=record.done)
        pool.queued[job_id] = record.view
        self.changed.add(record.job.base_model)
