"""ElasticFlow (ASPLOS'23): admission by minimum satisfactory share, leftovers by marginal return.

From the paper: a fixed cluster; an arriving job is admitted only if every admitted job and it can
meet its deadline (progressive filling, here from the deadline backwards); GPUs left over go where
one more step of workers saves the most GPU time; a job whose workers change is initialised anew.
Filled by us: time slots, and that a rescale must save more than it costs (`rescale_gain`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maitre.scheduling.actions import (
    Action,
    LoadModel,
    PreemptJob,
    RejectJob,
    StartJob,
    StartWorkers,
    WaitUntil,
)
from maitre.scheduling.cluster import ModelSpec
from maitre.scheduling.policies.parameters import COUNT, SHARE, parameter
from maitre.scheduling.snapshot import JobView, RunningJob, Snapshot


@dataclass(frozen=True)
class ElasticFlow:
    """Parameters: the share of the cluster held, the slot, and when to rescale.

    `reinitialise`: a job that starts or changes loads its model anew on all its workers, as the
    system does; without it, workers that already hold the model are used as they are.
    """

    cluster_share: float = parameter(1.0, SHARE)
    slots: int = parameter(60, COUNT)
    rescale_gain: float = parameter(2.0)
    reinitialise: bool = True
    name: str = "elasticflow"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Hold the fixed cluster, plan all jobs, and carry out the plan's first step."""
        return _Round(self, snapshot).actions()


@dataclass
class _Entry:
    """One job in the plan."""

    job: JobView
    model: ModelSpec
    running: RunningJob | None
    left: float
    workers: int = 0  # in the plan's first slot
    new: bool = False


class _Round:
    def __init__(self, policy: ElasticFlow, snapshot: Snapshot) -> None:
        self.policy = policy
        self.snapshot = snapshot
        self.time_s = snapshot.time_s
        self.size = max(1, round(policy.cluster_share * snapshot.cluster.gpus))
        self.rejected: list[Action] = []

    def actions(self) -> list[Action]:
        start = self.size - self.snapshot.held
        actions: list[Action] = [StartWorkers(None, start)] if start > 0 else []
        entries = self.plan()
        actions += self.rejected + self.carry_out(entries)
        if start > 0:
            actions.append(WaitUntil(self.time_s))
        elif entries:
            actions.append(WaitUntil(self.time_s + self.slot_s))
        return actions

    def entries(self) -> list[_Entry]:
        """Return jobs under way or admitted by deadline, then the others by arrival."""
        entries = []
        for pool in self.snapshot.pools.values():
            for running in pool.running.values():
                done = running.iterations_done(self.time_s)
                left = running.job.iterations_estimate - done
                if left <= 0:  # past its estimate
                    left = 0.1 * running.job.iterations_estimate
                entries.append(_Entry(running.job, pool.model, running, left))
            for job in pool.queued.values():
                left = max(0.0, job.iterations_estimate - job.iterations_done)
                new = not job.started and self.time_s - job.submitted_s < 1.0
                entries.append(_Entry(job, pool.model, None, left, new=new))
        return sorted(
            entries,
            key=lambda e: (
                e.new,
                e.job.submitted_s if e.new else e.job.deadline_s,
                e.job.job_id,
            ),
        )

    def plan(self) -> list[_Entry]:
        entries = self.entries()
        if not entries:
            return []
        horizon_s = max(entry.job.deadline_s for entry in entries) - self.time_s
        self.slot_s = max(1.0, horizon_s / self.policy.slots)
        free = np.full(self.policy.slots + 1, self.size)
        admitted = []
        for entry in entries:
            share = self.fill(entry, free)
            if share is None and entry.new:
                self.rejected.append(
                    RejectJob(entry.job.job_id, "the GPUs do not suffice to meet its deadline")
                )
                continue
            if share is None:  # admitted before, its estimate was wrong: the least it can run on
                share = np.zeros_like(free)
                fewest = entry.model.counts_by_cost[0]
                if entry.running is not None:
                    fewest = len(entry.running.workers)
                until = max(
                    1, math.ceil(entry.left * entry.model.iteration_s[fewest] / self.slot_s)
                )
                span = free[:until]
                share[:until] = np.where(span >= fewest, fewest, 0)
            free -= share
            entry.workers = int(share[0])
            admitted.append(entry)
        self.leftover(admitted, int(free[0]))
        return admitted

    def overhead_s(self, entry: _Entry, workers: int) -> float:
        """Return the time that a change of workers costs the job before it makes progress again."""
        if entry.running is not None and len(entry.running.workers) == workers:
            return 0.0
        again = entry.model.resize_s if entry.job.started else 0.0
        return entry.model.warm_up_s + again

    def fill(self, entry: _Entry, free: np.ndarray) -> np.ndarray | None:
        """Return the minimum satisfactory share, as workers in each slot, latest slots first."""
        slots = int((entry.job.deadline_s - self.time_s) / self.slot_s)
        counts = [k for k in entry.model.worker_counts if k <= self.size]
        for cap in counts:
            span = free[: max(slots, 1)]
            level = np.zeros_like(span)
            speed = np.zeros(len(span))
            for workers in counts:
                if workers > cap:
                    break
                fits = span >= workers
                level[fits] = workers
                speed[fits] = 1 / entry.model.iteration_s[workers]
            length_s = np.full(len(span), self.slot_s)
            if slots < 1:
                length_s[0] = max(0.0, entry.job.deadline_s - self.time_s)
            length_s[0] = max(0.0, length_s[0])
            gained = speed * length_s
            cost = self.overhead_s(entry, cap)
            need = entry.left + cost / entry.model.iteration_s[cap]
            backwards = np.cumsum(gained[::-1])[::-1]  # work possible from this slot on
            if backwards[0] < need:
                continue
            first = int(np.flatnonzero(backwards >= need)[-1])
            share = np.zeros_like(free)
            share[first : len(span)] = level[first:]
            return share
        return None

    def leftover(self, entries: list[_Entry], free: int) -> None:
        """Give the GPUs left in the first slot to the jobs where each saves the most time."""
        for entry in entries:  # a job under way keeps what it has while nothing needs it
            now = len(entry.running.workers) if entry.running is not None else 0
            if entry.workers < now and now - entry.workers <= free:
                free -= now - entry.workers
                entry.workers = now
        while free > 0:
            best: tuple[float, _Entry, int] | None = None
            for entry in entries:
                larger = [k for k in entry.model.worker_counts if k > entry.workers]
                if not larger or larger[0] - entry.workers > free:
                    continue
                saved = self.saving(entry, larger[0])
                if saved > 0 and (best is None or saved > best[0]):
                    best = (saved, entry, larger[0])
            if best is None:
                return
            _, entry, workers = best
            free -= workers - entry.workers
            entry.workers = workers

    def saving(self, entry: _Entry, workers: int) -> float:
        """Return the seconds saved per added GPU; not positive where the change does not pay."""
        after_s = entry.left * entry.model.iteration_s[workers]
        if entry.workers == 0:
            return 1e9 / (1.0 + after_s)  # waiting jobs first, the shortest first
        before_s = entry.left * entry.model.iteration_s[entry.workers]
        saved_s = before_s - after_s
        if saved_s <= self.policy.rescale_gain * self.overhead_s(entry, workers):
            return 0.0
        return saved_s / (workers - entry.workers)

    def carry_out(self, entries: list[_Entry]) -> list[Action]:
        actions: list[Action] = []
        pools = self.snapshot.pools
        starting: list[_Entry] = []
        wanted = sum(entry.workers for entry in entries)
        available = list(self.snapshot.blank)
        usable: dict[str, list[str]] = {}
        for name, pool in pools.items():
            fresh: list[str] = []
            stale: list[str] = []
            for idle in pool.idle.values():
                unused = idle.since_s == idle.ready_s or not self.policy.reinitialise
                (fresh if unused else stale).append(idle.worker)
            usable[name] = fresh
            available += stale
        for entry in entries:
            if entry.running is None:
                if entry.workers:
                    starting.append(entry)
                continue
            now = len(entry.running.workers)
            grows = entry.workers > now
            gives_way = entry.workers < now and wanted >= self.size
            if (grows and self.pays(entry, now)) or gives_way:
                actions.append(PreemptJob(entry.job.job_id))
                if self.policy.reinitialise:
                    available += entry.running.workers
                else:
                    usable[entry.model.name] += entry.running.workers
                if entry.workers:
                    starting.append(entry)
        loading = {
            name: sum(worker.state == "loading" for worker in pool.workers.values())
            for name, pool in pools.items()
        }
        wanting = {entry.model.name for entry in starting}
        for name, workers in usable.items():
            if name not in wanting:
                available += workers
        for entry in starting:
            name = entry.model.name
            if len(usable[name]) >= entry.workers:
                actions.append(StartJob(entry.job.job_id, tuple(usable[name][: entry.workers])))
                del usable[name][: entry.workers]
                continue
            short = entry.workers - len(usable[name])
            usable[name].clear()
            coming = min(short, loading[name])
            loading[name] -= coming
            actions += [LoadModel(worker, name) for worker in available[: short - coming]]
            del available[: short - coming]
        return actions

    def pays(self, entry: _Entry, now: int) -> bool:
        """Return whether the deadline needs the larger set, or the saving is worth the change."""
        model = entry.model
        stay_s = entry.left * model.iteration_s[now]
        change_s = entry.left * model.iteration_s[entry.workers]
        overhead_s = model.warm_up_s + model.resize_s
        needed = self.time_s + stay_s > entry.job.deadline_s
        return (needed and change_s + overhead_s < stay_s) or (
            stay_s - change_s > self.policy.rescale_gain * overhead_s
        )
