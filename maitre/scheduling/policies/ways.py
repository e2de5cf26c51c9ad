"""The ways to run one job: on how many workers, with a bank lookup first or without."""

from typing import NamedTuple

from maitre.scheduling.cluster import ModelSpec
from maitre.scheduling.policies.estimate_error import EstimateError
from maitre.scheduling.policies.plan_parameters import PlanParameters
from maitre.scheduling.snapshot import JobView


class Way(NamedTuple):
    """One way to run a job: on `workers`, with or without a lookup first."""

    workers: int
    lookup: bool
    run_s: float
    gpu_s: float


class Ways:
    """The ways of one pool's jobs, at quantiles of the learned error of their estimates."""

    def __init__(
        self, model: ModelSpec, error: EstimateError, time_s: float, parameters: PlanParameters
    ) -> None:
        self.model = model
        self.error = error
        self.now = time_s
        self.p = parameters
        self.speeds = efficient_speeds(model, parameters.gpus)
        self.fastest_s = self.speeds[-1][1]
        self._ratios: dict[tuple[bool, float], float] = {}
        lucky = parameters.hopeless_quantile
        self._lucky_cold = self.ratio(False, lucky) * self.fastest_s
        self._lucky_bank = self.ratio(True, lucky) * self.fastest_s

    def ratio(self, banked: bool, quantile: float) -> float:
        """The `quantile` of true / estimated iterations of a job that has not started."""
        known = self._ratios.get((banked, quantile))
        if known is None:
            known = self._ratios[banked, quantile] = self.error.quantile(banked, quantile)
        return known

    def luckiest_s(self, job: JobView, from_s: float) -> float:
        """The run time on the fastest number of workers, warm, with a lucky count."""
        if job.started:
            left = self.error.left(job, job.iterations_done, self.p.hopeless_quantile)
            return self.model.resize_s + left * self.fastest_s
        bank_s = job.iterations_bank_estimate * self._lucky_bank
        if job.lookup_ended or from_s > self.now:
            return bank_s
        cold_s = job.iterations_cold_estimate * self._lucky_cold
        return min(cold_s, self.model.lookup_s + bank_s) if self.p.lookup else cold_s

    def all(self, job: JobView, from_s: float, quantile: float) -> list[Way]:
        """Every number of workers, cheapest first; a fresh job with a lookup and without."""
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            resume_s = self.model.resize_s
        elif job.lookup_ended or from_s > self.now:
            left = job.iterations_bank_estimate * self.ratio(True, quantile)
            resume_s = 0.0
        else:
            return self._fresh(job, quantile)
        return [
            Way(k, False, left * iteration_s + resume_s, k * (left * iteration_s + resume_s))
            for k, iteration_s in self.speeds
        ]

    def _fresh(self, job: JobView, quantile: float) -> list[Way]:
        cold = job.iterations_cold_estimate * self.ratio(False, quantile)
        bank = job.iterations_bank_estimate * self.ratio(True, quantile)
        lookup_s = self.model.lookup_s
        ways = []
        for k, iteration_s in self.speeds:
            cold_s, bank_s = cold * iteration_s, bank * iteration_s
            cold_way = Way(k, False, cold_s, k * cold_s)
            if not self.p.lookup:
                ways.append(cold_way)
                continue
            bank_way = Way(k, True, lookup_s + bank_s, lookup_s + k * bank_s)
            if bank_way.gpu_s <= cold_way.gpu_s:
                ways += (bank_way, cold_way)
            else:
                ways += (cold_way, bank_way)
        return ways

    def cheapest(self, job: JobView, from_s: float, quantile: float) -> Way:
        """The cheapest way alone: the first of `all`, at a fraction of the time."""
        k, iteration_s = self.speeds[0]
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            run_s = left * iteration_s + self.model.resize_s
            return Way(k, False, run_s, k * run_s)
        bank_s = job.iterations_bank_estimate * self.ratio(True, quantile) * iteration_s
        if job.lookup_ended or from_s > self.now:
            return Way(k, False, bank_s, k * bank_s)
        cold_s = job.iterations_cold_estimate * self.ratio(False, quantile) * iteration_s
        lookup_s = self.model.lookup_s
        if self.p.lookup and lookup_s + k * bank_s <= k * cold_s:
            return Way(k, True, lookup_s + bank_s, lookup_s + k * bank_s)
        return Way(k, False, cold_s, k * cold_s)

    def release_s(self, job: JobView, way: Way) -> float:
        """How long `way` is taken to hold its workers where a later job waits for them.

        A lower quantile than its own deadline is planned with: over a row of jobs the errors
        even out.
        """
        quantile = self.p.release_quantile
        iteration_s = self.model.iteration_s[way.workers]
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            return self.model.resize_s + left * iteration_s
        if way.lookup:
            bank = job.iterations_bank_estimate * self.ratio(True, quantile)
            return self.model.lookup_s + bank * iteration_s
        banked = job.lookup_ended
        planned = self.ratio(banked, self.p.finish_quantile)
        return way.run_s * self.ratio(banked, quantile) / planned


def efficient_speeds(model: ModelSpec, gpus: int) -> list[tuple[int, float]]:
    """(workers, seconds per iteration), cheapest first; none dearer than one as fast.

    Scaling need not be monotone: a number of workers at which an iteration is no faster than at a
    cheaper one is left out. Numbers above `gpus` are, too.
    """
    speeds: list[tuple[int, float]] = []
    for workers in model.counts_by_cost:
        seconds = model.iteration_s[workers]
        if workers <= gpus and (not speeds or seconds < speeds[-1][1]):
            speeds.append((workers, seconds))
    return speeds
