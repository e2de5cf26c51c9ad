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
from maitre.scheduling.errors import PolicyError, SchedulingError
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job
from maitre.scheduling.outcome import Outcome
from maitre.scheduling.policy import Policy
from maitre.scheduling.simulation_actions import apply
from maitre.scheduling.simulation_state import FINISH, LOOKUP_END, READY, ClusterState, JobRecord
from maitre.scheduling.snapshot import Completion, Snapshot

_QUIET_ROUNDS = 1_000
"""Rounds in a row with nothing due and all deadlines past, after which a policy has stalled."""

_ROUNDS_WITHOUT_PROGRESS = 100_000
"""Rounds in a row with no job that gets further and all deadlines past: the run is endless."""


@dataclass(frozen=True)
class Simulation:
    """The event log of a run and its outcome."""

    events: list[Event]
    outcome: Outcome


def simulate(
    jobs: Sequence[Job], cluster: Cluster, policy: Policy, *, seed: int = 0, pace_s: float = 1e-3
) -> Simulation:
    """Run `policy` on `jobs` until nothing can happen any more, then stop the workers.

    That is when every job is finished or rejected, or when the policy has left the others and does
    not ask to be woken. `seed` draws worker failures. A failed worker's job is preempted with its
    progress (a soft prompt is checkpointed at every iteration) and its GPU is given back; a failure
    during a lookup shows when the lookup ends.

    Raises:
        PolicyError: an action that the cluster cannot take, or a policy that only asks to be woken.
        SchedulingError: no job gets any further, because workers fail too soon.
    """
    return _Run(jobs, cluster, policy, seed, pace_s).run()


class _Run:
    """One run: what happens by itself, and when the policy is asked."""

    def __init__(
        self, jobs: Sequence[Job], cluster: Cluster, policy: Policy, seed: int, pace_s: float
    ) -> None:
        self.state = ClusterState(jobs, cluster, seed)
        self.policy = policy
        self.pace_ms = pace_s * 1000
        self.quiet_rounds = self.idle_rounds = 0
        self.open_before = 0

    # -- the loop ---------------------------------------------------------------------------

    def run(self) -> Simulation:
        next_arrival = 0
        earliest_decision = 0
        decision_due = False
        arriving, heap = self.state.arriving, self.state.heap
        last_deadline_ms = max((record.deadline_ms for _, record in arriving), default=0)
        while self.state.open_jobs:
            times = []
            if next_arrival < len(arriving):
                times.append(arriving[next_arrival][0])
            if heap:
                times.append(heap[0][0])
            if decision_due:
                times.append(max(earliest_decision, self.state.now))
            elif self.state.wake_ms is not None:
                times.append(max(self.state.wake_ms, earliest_decision, self.state.now))
            if not times:
                break
            self.state.now = now = min(times)
            if next_arrival == len(arriving) and now > last_deadline_ms:
                self.check_progress()
            while heap and heap[0][0] == now:
                decision_due |= self.settle(heapq.heappop(heap))
            while next_arrival < len(arriving) and arriving[next_arrival][0] == now:
                self.submit(arriving[next_arrival][1])
                next_arrival += 1
                decision_due = True
            if self.state.wake_ms is not None and self.state.wake_ms <= now:
                decision_due = True
            if decision_due and now >= earliest_decision and self.state.open_jobs:
                decision_due = False
                live = self.decide()
                earliest_decision = now + round(live * self.pace_ms)
        self.close()
        return Simulation(self.state.events, self.outcome())

    def check_progress(self) -> None:
        """Raise an error when the policy only waits, or when no job gets any further.

        Raises:
            PolicyError: nothing is due, and the policy asks again and again to be woken.
            SchedulingError: jobs lose what they do faster than they do it, as workers that fail
                sooner than a job has resumed.
        """
        pools = self.state.pools.values()
        is_due = any(
            pool.running
            or pool.lookups
            or any(worker.state == "loading" for worker in pool.workers.values())
            for pool in pools
        )
        self.quiet_rounds = 0 if is_due else self.quiet_rounds + 1
        gets_further = self.state.open_jobs < self.open_before or any(
            self.state.jobs[job_id].from_ms < self.state.now
            for pool in pools
            for job_id in pool.running
        )
        self.open_before = self.state.open_jobs
        self.idle_rounds = 0 if gets_further else self.idle_rounds + 1
        where = (
            f"{self.state.open_jobs} of {len(self.state.jobs)} jobs are open at "
            f"{self.state.now / 1000:.0f} s, and all deadlines are past"
        )
        if self.quiet_rounds > _QUIET_ROUNDS:
            raise PolicyError(
                f"{self.policy.name} ends no job any more: {where}; it only asks to be woken"
            )
        if self.idle_rounds > _ROUNDS_WITHOUT_PROGRESS:
            raise SchedulingError(
                f"the simulation does not end: {where}; no job gets further: lower the cluster's "
                "failures_per_worker_hour, or look at the policy"
            )

    def settle(self, entry: tuple[int, int, int, str, int]) -> bool:
        """Carry out one due event; return False when it has been overtaken."""
        _, kind, _, name, epoch = entry
        if kind == FINISH:
            if self.state.jobs[name].epoch != epoch:
                return False
            self.finish(self.state.jobs[name])
        elif kind == LOOKUP_END:
            self.end_lookup(self.state.jobs[name])
        elif kind == READY:
            if name not in self.state.held or self.state.load_epoch[name] != epoch:
                return False
            self.ready(name)
        else:
            if name not in self.state.held:
                return False
            self.fail(name)
        return True

    def decide(self) -> int:
        self.state.decisions += 1
        self.state.wake_ms = None
        snapshot = Snapshot(
            self.state.now / 1000,
            self.state.cluster,
            self.state.pool_views,
            self.state.blank,
            len(self.state.held),
            frozenset(self.state.changed),
        )
        self.state.changed.clear()
        live = len(self.state.held) + sum(
            len(pool.queued) + len(pool.running) for pool in self.state.pools.values()
        )
        for action in self.policy.decide(snapshot):
            apply(self.state, action)
        self.state.peak = max(self.state.peak, len(self.state.held))
        return live

    # -- what happens by itself ---------------------------------------------------------------

    def submit(self, record: JobRecord) -> None:
        record.state = "queued"
        pool = self.state.pools[record.job.base_model]
        pool.queued[record.job.job_id] = record.view
        pool.arrivals_s.append(self.state.now / 1000)
        self.state.changed.add(record.job.base_model)

    def finish(self, record: JobRecord) -> None:
        job = record.job
        pool = self.state.pools[job.base_model]
        self.state.log("job_finish", ";".join(record.workers), job.job_id, job.base_model)
        self.state.release(pool, record)
        record.state = "finished"
        late = self.state.now > record.deadline_ms
        self.state.finished += 1
        self.state.late += late
        self.state.open_jobs -= 1
        del pool.running[job.job_id]
        banked = record.view.lookup_ended
        pool.completions.append(
            Completion(
                self.state.now / 1000, banked, record.view.iterations_estimate, record.need, late
            )
        )
        self.state.changed.add(job.base_model)

    def end_lookup(self, record: JobRecord) -> None:
        job = record.job
        pool = self.state.pools[job.base_model]
        lookup = pool.lookups.pop(job.job_id)
        self.state.log("lookup_end", lookup.worker, job.job_id, job.base_model)
        self.state.lookup_ms += pool.lookup_ms
        record.state = "queued"
        record.view = replace(record.view, lookup_ended=True)
        record.need = float(job.iterations_bank)
        pool.queued[job.job_id] = record.view
        self.state.make_idle(pool, lookup.worker)
        if lookup.worker in self.state.doomed:
            self.state.doomed.discard(lookup.worker)
            self.state.drop(lookup.worker)
        self.state.changed.add(job.base_model)

    def ready(self, name: str) -> None:
        model = self.state.holder[name]
        assert model is not None
        pool = self.state.pools[model]
        self.state.log("worker_ready", name, "", model)
        self.state.warming_ms += pool.warm_up_ms
        self.state.make_idle(pool, name, ready=True)
        self.state.changed.add(model)

    def fail(self, name: str) -> None:
        model = self.state.holder[name]
        if model is not None:
            worker = self.state.pools[model].workers[name]
            if worker.state == "lookup":
                self.state.doomed.add(name)
                return
            if worker.state == "running":
                self.state.preempt(self.state.on_worker[name])
            if worker.state == "loading":
                self.state.warming_ms += self.state.now - round(worker.since_s * 1000)
        self.state.drop(name)

    def close(self) -> None:
        """Stop what is still held: nothing is left to do (or the policy will never do it)."""
        for name in list(self.state.held):
            model = self.state.holder[name]
            if model is not None:
                worker = self.state.pools[model].workers[name]
                if worker.state == "loading":
                    self.state.warming_ms += self.state.now - round(worker.since_s * 1000)
            self.state.drop(name)

    def outcome(self) -> Outcome:
        state = self.state
        hour_ms = 3_600_000
        unfinished = state.open_jobs
        violations = state.late + state.rejected + unfinished
        first_ms = state.arriving[0][0] if state.arriving else 0
        idle_ms = state.held_ms - state.busy_ms - state.lookup_ms - state.warming_ms
        return Outcome(
            policy=self.policy.name,
            jobs=len(state.jobs),
            finished=state.finished,
            late=state.late,
            rejected=state.rejected,
            unfinished=unfinished,
            violations=violations,
            violation_rate=violations / max(1, len(state.jobs)),
            gpu_hours=state.held_ms / hour_ms,
            cost=state.held_ms / hour_ms * state.cluster.gpu_price_per_hour,
            busy_gpu_hours=state.busy_ms / hour_ms,
            lookup_gpu_hours=state.lookup_ms / hour_ms,
            warming_gpu_hours=state.warming_ms / hour_ms,
            idle_gpu_hours=idle_ms / hour_ms,
            worker_starts=state.worker_count,
            preemptions=state.preemptions,
            resizes=state.resizes,
            lookups=state.lookups,
            peak_gpus=state.peak,
            makespan_s=(state.now - first_ms) / 1000,
            decisions=state.decisions,
        )
