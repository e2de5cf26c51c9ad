"""An event-driven simulator of the cluster contract: a policy decides, the event log says it all.

Time is kept in whole milliseconds, so that what the log says is exactly what happened. Work under
way at one time stamp is settled before the policy is asked: finishes, lookups, loads, failures,
submissions. A decision costs `pace_s` of simulated time for every live job and worker before the
next can be taken, which is how a scheduler behaves whose decision takes time in proportion.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from maitre.scheduling.cluster import Cluster
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job
from maitre.scheduling.outcome import Outcome
from maitre.scheduling.policy import Policy
from maitre.scheduling.simulation_actions import apply
from maitre.scheduling.simulation_state import FINISH, LOOKUP_END, READY, ClusterState, JobRecord
from maitre.scheduling.snapshot import Completion, Snapshot

_STALLED_MS = 2 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Simulation:
    """The event log of a run and its outcome."""

    events: list[Event]
    outcome: Outcome


def simulate(
    jobs: Sequence[Job], cluster: Cluster, policy: Policy, *, seed: int = 0, pace_s: float = 1e-3
) -> Simulation:
    """Run `policy` on `jobs` until every job is finished or rejected, then stop the workers.

    `seed` draws worker failures. A failed worker's job is preempted with its progress (a soft
    prompt is checkpointed at every iteration) and its GPU is given back; a failure during a lookup
    shows when the lookup ends. Raises `PolicyError` for an action the cluster cannot take.
    """
    return _Run(jobs, cluster, policy, seed, pace_s).run()


class _Run(ClusterState):
    """One run: what happens by itself, and when the policy is asked."""

    def __init__(
        self, jobs: Sequence[Job], cluster: Cluster, policy: Policy, seed: int, pace_s: float
    ) -> None:
        super().__init__(jobs, cluster, seed)
        self.policy = policy
        self.pace_ms = pace_s * 1000

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
        if kind == FINISH:
            if self.jobs[name].epoch != epoch:
                return False
            self.finish(self.jobs[name])
        elif kind == LOOKUP_END:
            self.end_lookup(self.jobs[name])
        elif kind == READY:
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
            apply(self, action)
        self.peak = max(self.peak, len(self.held))
        return live

    # -- what happens by itself ---------------------------------------------------------------

    def submit(self, record: JobRecord) -> None:
        record.state = "queued"
        pool = self.pools[record.job.base_model]
        pool.queued[record.job.job_id] = record.view
        pool.arrivals_s.append(self.now / 1000)
        self.changed.add(record.job.base_model)

    def finish(self, record: JobRecord) -> None:
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

    def end_lookup(self, record: JobRecord) -> None:
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
                self.preempt(self.on_worker[name])
            if state == "loading":
                loaded = self.now - round(self.pools[model].workers[name].since_s * 1000)
                self.warming_ms += loaded
        self.drop(name)

    def close(self) -> None:
        """Stop what is still held: nothing is left to do (or the policy will never do it)."""
        for pool in self.pools.values():
            for job_id in list(pool.running):
                self.preempt(job_id)
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
