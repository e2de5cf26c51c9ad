"""The ways to run one job: on how many workers, with a bank lookup first or without."""

import math
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
        self._ratios: dict[float, tuple[float, float]] = {}

    def ratios(self, quantile: float) -> tuple[float, float]:
        """Return the `quantile` of true / estimated iterations: cold, and from the bank."""
        known = self._ratios.get(quantile)
        if known is None:
            known = (self.error.quantile(False, quantile), self.error.quantile(True, quantile))
            self._ratios[quantile] = known
        return known

    def fastest_run_s(self, job: JobView, from_s: float, quantile: float) -> float:
        """Return the run time on the fastest number of workers, warm: no way takes less."""
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            return self.model.resize_s + left * self.fastest_s
        cold, bank = self.ratios(quantile)
        bank_s = job.iterations_bank_estimate * bank * self.fastest_s
        if job.lookup_ended or from_s > self.now:
            return bank_s
        cold_s = job.iterations_cold_estimate * cold * self.fastest_s
        return min(cold_s, self.model.lookup_s + bank_s) if self.p.lookup else cold_s

    def all(
        self, job: JobView, from_s: float, quantile: float, dearest: float = math.inf
    ) -> list[Way]:
        """Return a way per number of workers, cheapest first; for a fresh job also with a lookup.

        Ways more than `dearest` times as dear as the first are left out.
        """
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            resume_s = self.model.resize_s
        elif job.lookup_ended or from_s > self.now:
            left = job.iterations_bank_estimate * self.ratios(quantile)[1]
            resume_s = 0.0
        else:
            return self._ways_from_start(job, quantile, dearest)
        ways: list[Way] = []
        for k, iteration_s in self.speeds:
            run_s = left * iteration_s + resume_s
            if not ways or k * run_s <= dearest * ways[0].gpu_s:
                ways.append(Way(k, False, run_s, k * run_s))
        return ways

    def _ways_from_start(self, job: JobView, quantile: float, dearest: float) -> list[Way]:
        cold_ratio, bank_ratio = self.ratios(quantile)
        cold = job.iterations_cold_estimate * cold_ratio
        bank = job.iterations_bank_estimate * bank_ratio
        lookup_s = self.model.lookup_s
        ways: list[Way] = []
        limit_s = math.inf
        for k, iteration_s in self.speeds:
            cold_s = cold * iteration_s
            cold_gpu_s = k * cold_s
            bank_s = bank * iteration_s
            bank_gpu_s = lookup_s + k * bank_s if self.p.lookup else math.inf
            if not ways:
                limit_s = dearest * min(cold_gpu_s, bank_gpu_s)
            if bank_gpu_s <= cold_gpu_s and bank_gpu_s <= limit_s:
                ways.append(Way(k, True, lookup_s + bank_s, bank_gpu_s))
            if cold_gpu_s <= limit_s:
                ways.append(Way(k, False, cold_s, cold_gpu_s))
            if cold_gpu_s < bank_gpu_s <= limit_s and self.p.lookup:
                ways.append(Way(k, True, lookup_s + bank_s, bank_gpu_s))
        return ways

    def cheapest(self, job: JobView, from_s: float, quantile: float) -> Way:
        """Return the first way of `all`, the cheapest, in a fraction of its computing time."""
        k, iteration_s = self.speeds[0]
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            run_s = left * iteration_s + self.model.resize_s
            return Way(k, False, run_s, k * run_s)
        cold, bank = self.ratios(quantile)
        bank_s = job.iterations_bank_estimate * bank * iteration_s
        if job.lookup_ended or from_s > self.now:
            return Way(k, False, bank_s, k * bank_s)
        cold_s = job.iterations_cold_estimate * cold * iteration_s
        lookup_s = self.model.lookup_s
        if self.p.lookup and lookup_s + k * bank_s <= k * cold_s:
            return Way(k, True, lookup_s + bank_s, lookup_s + k * bank_s)
        return Way(k, False, cold_s, k * cold_s)

    def release_s(self, job: JobView, way: Way) -> float:
        """Return how long `way` is presumed to hold workers that a later job waits for.

        This is a lower quantile than the one for the job's own deadline: over a row of jobs the
        errors even out.
        """
        quantile = self.p.release_quantile
        iteration_s = self.model.iteration_s[way.workers]
        if job.started:
            left = self.error.left(job, job.iterations_done, quantile)
            return self.model.resize_s + left * iteration_s
        if way.lookup:
            bank = job.iterations_bank_estimate * self.ratios(quantile)[1]
            return self.model.lookup_s + bank * iteration_s
        banked = int(job.lookup_ended)
        planned = self.ratios(self.p.finish_quantile)[banked]
        return way.run_s * self.ratios(quantile)[banked] / planned


def efficient_speeds(model: ModelSpec, gpus: int) -> list[tuple[int, float]]:
    """Return (workers, seconds per iteration), cheapest first, each faster than the one before.

    Scaling need not be monotone. A number of workers at which an iteration takes as long as at a
    cheaper number, or longer, is left out. So are numbers above `gpus`.
    """
    speeds: list[tuple[int, float]] = []
    for workers in model.counts_by_cost:
        seconds = model.iteration_s[workers]
        if workers <= gpus and (not speeds or seconds < speeds[-1][1]):
            speeds.append((workers, seconds))
    return speeds
