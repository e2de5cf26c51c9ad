"""Earliest deadline first: the simplest policy, and the example to copy.

The job with the earliest deadline gets workers first. Each job runs on the fewest workers that its
model allows. It uses no estimate, no prompt bank and no preemption.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from maitre.scheduling.actions import (
    Action,
    LoadModel,
    StartJob,
    StartWorkers,
    WaitUntil,
)
from maitre.scheduling.policies.availability import idle_workers, loading_until_s
from maitre.scheduling.policies.idle_window import stop_idle
from maitre.scheduling.policies.parameters import parameter
from maitre.scheduling.snapshot import Snapshot


@dataclass(frozen=True)
class EarliestDeadlineFirst:
    """Parameter: for how long (seconds) a worker may be idle before its GPU is given back."""

    idle_window_s: float = parameter(30.0)
    name: str = "earliest_deadline_first"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Give workers to the queued jobs in order of deadline, then stop what has idled long."""
        actions: list[Action] = []
        cold = snapshot.cold
        idle = {name: idle_workers(pool) for name, pool in snapshot.pools.items()}
        loading = {name: len(loading_until_s(pool)) for name, pool in snapshot.pools.items()}
        waiting = [job for pool in snapshot.pools.values() for job in pool.queued.values()]
        for job in sorted(waiting, key=lambda job: (job.deadline_s, job.submitted_s, job.job_id)):
            model = job.base_model
            needed = snapshot.pools[model].model.worker_counts[0]
            # Workers that this job takes or waits for are not there for jobs with later deadlines.
            own, idle[model] = idle[model][:needed], idle[model][needed:]
            if len(own) == needed:
                actions.append(StartJob(job.job_id, tuple(own)))
                continue
            missing = needed - len(own)
            coming = min(missing, loading[model])
            loading[model] -= coming
            missing -= coming
            fresh = min(missing, cold)
            cold -= fresh
            if fresh:
                actions.append(StartWorkers(model, fresh))
            for worker in _idle_elsewhere(idle, model)[: missing - fresh]:
                actions.append(LoadModel(worker, model))
                for workers in idle.values():
                    if worker in workers:
                        workers.remove(worker)
        wake_s = float("inf")
        for name, workers in idle.items():
            windows_s = [(worker, self.idle_window_s) for worker in workers]
            stopped, ends_s = stop_idle(snapshot.pools[name], snapshot.time_s, windows_s)
            actions += stopped
            wake_s = min(wake_s, ends_s)
        if wake_s < float("inf"):
            actions.append(WaitUntil(wake_s))
        return actions


def _idle_elsewhere(idle: dict[str, list[str]], model: str) -> list[str]:
    """Return the idle workers of other models, the longest idle of each model first."""
    return [w for name, workers in idle.items() if name != model for w in reversed(workers)]
