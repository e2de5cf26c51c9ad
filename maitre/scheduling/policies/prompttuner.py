"""PromptTuner (arXiv 2603.05087): warm pools, earliest deadline first, fewest GPUs, delays.

From the paper: a warm pool per model; queued jobs by deadline; each gets the fewest GPUs that meet
its deadline; a job waits while a predicted release still meets it; otherwise the pool grows from
the cold pool; an idle window gives workers back; the prompt bank is asked when its latency fits
a share of the job's time. What the paper leaves open and how it is filled stands in
`docs/scheduling.md`.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from maitre.scheduling.actions import Action, StartJob, StartLookup, WaitUntil
from maitre.scheduling.policies.availability import (
    idle_workers,
    loading_until_s,
    predicted_releases_s,
    run_s,
)
from maitre.scheduling.policies.fleet import Fleet
from maitre.scheduling.policies.idle_window import stop_idle
from maitre.scheduling.policies.parameters import parameter
from maitre.scheduling.snapshot import JobView, Pool, Snapshot


@dataclass(frozen=True)
class PromptTuner:
    """Parameters: the lookup's share of a job's time, the idle window, and the overdue guess."""

    lookup_budget: float = parameter(0.2)
    idle_window_s: float = parameter(60.0)
    overdue_fraction: float = parameter(0.1)
    name: str = "prompttuner"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Decide one round over all warm pools."""
        fleet = Fleet(snapshot)
        actions: list[Action] = []
        spare: dict[str, list[str]] = {}
        for name, pool in snapshot.pools.items():
            started, spare[name] = self._decide_pool(pool, snapshot.time_s, fleet)
            actions += started
        wake_s = float("inf")
        for name, pool in snapshot.pools.items():
            windows_s = [(w, self.idle_window_s) for w in spare[name] if w not in fleet.taken]
            stopped, ends_s = stop_idle(pool, snapshot.time_s, windows_s)
            actions += stopped
            wake_s = min(wake_s, ends_s)
            if pool.queued:
                wake_s = min(wake_s, snapshot.time_s + 1.0)
        if wake_s < float("inf"):
            actions.append(WaitUntil(wake_s))
        return actions

    def wants_lookup(self, pool: Pool, job: JobView) -> bool:
        """Return whether the bank's latency fits the job's latency budget."""
        budget_s = self.lookup_budget * (job.deadline_s - job.submitted_s)
        return not job.started and not job.lookup_ended and pool.model.lookup_s <= budget_s

    def _decide_pool(
        self, pool: Pool, time_s: float, fleet: Fleet
    ) -> tuple[list[Action], list[str]]:
        idle = idle_workers(pool)
        if not pool.queued and not pool.lookups:
            return [], idle
        model = pool.model
        actions: list[Action] = []
        releases = predicted_releases_s(pool, time_s, self.overdue_fraction)
        for ready_s in loading_until_s(pool):
            insort(releases, ready_s)
        self._reserve_for_lookups(pool, idle, releases)
        new = 0
        room = fleet.room(model.name)
        late: list[JobView] = []
        for job in sorted(pool.queued.values(), key=lambda job: (job.deadline_s, job.job_id)):
            lookup = self.wants_lookup(pool, job)
            budget_s = job.deadline_s - time_s
            need_s = {k: run_s(model, job, k, lookup=lookup) for k in model.worker_counts}
            warm = next((k for k, need in need_s.items() if k <= len(idle) and need <= budget_s), 0)
            if warm:
                actions.append(_start_or_look_up(job, idle[:warm], lookup))
                del idle[:warm]
                continue
            delayed = self._workers_worth_a_wait(
                need_s, job.deadline_s, time_s, len(idle), releases
            )
            if delayed:
                kept = min(delayed, len(idle))
                del idle[:kept]
                del releases[: delayed - kept]
                continue
            cold = next(
                (
                    k
                    for k, need in need_s.items()
                    if k - len(idle) <= room - new and model.warm_up_s + need <= budget_s
                ),
                0,
            )
            if cold:
                new += max(0, cold - len(idle))
                del idle[: min(cold, len(idle))]
            else:
                late.append(job)
        fewest = model.worker_counts[0]
        for job in late:
            if len(idle) >= fewest:
                actions.append(_start_or_look_up(job, idle[:fewest], self.wants_lookup(pool, job)))
                del idle[:fewest]
            elif len(pool.workers) + new < fewest and fewest <= room:
                new += fewest - len(pool.workers) - new
        if new:
            actions += fleet.grow(model.name, new)
        return actions, idle

    def _reserve_for_lookups(self, pool: Pool, idle: list[str], releases: list[float]) -> None:
        """Keep the workers that a job will want once its lookup has ended."""
        for view in pool.lookups.values():
            job = view.job
            left_s = job.deadline_s - view.ends_s
            wanted = next(
                (
                    k
                    for k in pool.model.worker_counts
                    if job.iterations_bank_estimate * pool.model.iteration_s[k] <= left_s
                ),
                pool.model.worker_counts[0],
            )
            kept = min(wanted - 1, len(idle))
            del idle[:kept]
            del releases[: wanted - 1 - kept]

    @staticmethod
    def _workers_worth_a_wait(
        need_s: dict[int, float],
        deadline_s: float,
        time_s: float,
        idle: int,
        releases: Sequence[float],
    ) -> int:
        """Return the fewest workers that meet the deadline by their predicted release; else 0."""
        for workers, need in need_s.items():
            if workers <= idle:
                continue
            if workers - idle > len(releases):
                return 0
            if max(time_s, releases[workers - idle - 1]) + need <= deadline_s:
                return workers
        return 0


def _start_or_look_up(job: JobView, workers: Sequence[str], lookup: bool) -> Action:
    if lookup:
        return StartLookup(job.job_id, workers[0])
    return StartJob(job.job_id, tuple(workers))
