"""Which running job can best give its workers to a tighter one: the one that can wait longest."""

from collections.abc import Mapping

from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.plan_parameters import PlanParameters
from maitre.scheduling.snapshot import Pool, RunningJob


class Victims:
    """The running jobs of a pool, by number of workers and by how long they can wait.

    `rest_s` is what each job still needs on its present workers. A job that will be late even if it
    is lucky can wait for ever.
    """

    def __init__(
        self,
        pool: Pool,
        time_s: float,
        rest_s: Mapping[str, float],
        error: EstimateError,
        parameters: PlanParameters,
    ) -> None:
        fastest_s = min(pool.model.iteration_s.values())
        self._ranked: dict[int, list[tuple[float, str, RunningJob]]] = {}
        for running in pool.running.values():
            if running.progress_from_s > time_s:
                continue
            job = running.job
            until_s = job.deadline_s - pool.model.resize_s - rest_s[job.job_id]
            if is_lost(running, time_s, error, fastest_s, parameters):
                until_s = float("inf")
            entry = (until_s, job.job_id, running)
            self._ranked.setdefault(len(running.workers), []).append(entry)
        for entries in self._ranked.values():
            entries.sort()  # no two share a job_id

    def none_until(self, time_s: float) -> bool:
        """Return whether no running job can wait until `time_s`."""
        return all(not ranked or ranked[-1][0] <= time_s for ranked in self._ranked.values())

    def best(self, workers: int, until_s: float, taken: set[str]) -> RunningJob | None:
        """Return the job on this number of `workers`, none `taken`, that can wait longest.

        `None` where no such job can wait until `until_s`.
        """
        ranked = self._ranked.get(workers, [])
        while ranked and taken.intersection(ranked[-1][2].workers):
            ranked.pop()
        if ranked and ranked[-1][0] > until_s:
            return ranked[-1][2]
        return None


def is_lost(
    running: RunningJob,
    time_s: float,
    error: EstimateError,
    fastest_s: float,
    parameters: PlanParameters,
) -> bool:
    """Return whether a running job will be late even if it is lucky, on any number of workers."""
    done = running.iterations_done(time_s)
    left = error.left(running.job, done, parameters.hopeless_quantile)
    return time_s + left * fastest_s > running.job.deadline_s
