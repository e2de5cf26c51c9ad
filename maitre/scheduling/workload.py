"""Makes a workload: real arrivals x measured job sizes x base models x slack, at a wanted load.

Arrivals are those of a window of a real trace, compressed in time until the cheapest possible run
of all jobs would keep the wanted share of the cluster busy. Everything else is drawn from a seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maitre.scheduling.cluster import Cluster, ModelSpec
from maitre.scheduling.errors import SchedulingError
from maitre.scheduling.jobs import Job
from maitre.tables import read_table

LOADS: Mapping[str, float] = {"low": 0.15, "medium": 0.3, "high": 0.5}
DAY_S = 86_400.0


@dataclass(frozen=True)
class ItaDistribution:
    """Iterations to accuracy of a job started cold, and of the same job started from the bank.

    Either pairs measured on real tasks (`pairs`, drawn with replacement), or log-normal: `median`
    cold iterations with `sigma`, times a bank ratio with its own median and sigma (at most
    `worst_ratio`: a bad bank entry can cost a little).
    """

    median: float = 400.0
    sigma: float = 0.7
    bank_ratio_median: float = 0.4
    bank_ratio_sigma: float = 0.5
    worst_ratio: float = 1.1
    pairs: tuple[tuple[float, float], ...] = ()

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` cold and bank iteration counts, whole numbers from 1."""
        if self.pairs:
            chosen = np.asarray(self.pairs)[generator.integers(len(self.pairs), size=count)]
            cold, bank = chosen[:, 0], chosen[:, 1]
        else:
            cold = self.median * np.exp(self.sigma * generator.standard_normal(count))
            ratio = self.bank_ratio_median * np.exp(
                self.bank_ratio_sigma * generator.standard_normal(count)
            )
            bank = cold * np.minimum(ratio, self.worst_ratio)
        return np.maximum(1, np.rint(cold)), np.maximum(1, np.rint(bank))


@dataclass(frozen=True)
class WorkloadOptions:
    """What is drawn for each job besides its arrival.

    `load` is the share of the cluster that all jobs would keep busy over the window if each ran as
    cheaply as it can. The deadline is one of `slacks`, drawn, times the seconds that a cold start
    takes on the fewest workers, warm-up included. Estimates are the true counts times a
    log-normal error. `model_weights` defaults to 1, 1/2, 1/3, ... in the cluster's order.
    """

    load: float = LOADS["medium"]
    slacks: tuple[float, ...] = (0.6, 1.0, 1.5)
    ita: ItaDistribution = ItaDistribution()
    cold_error_sigma: float = 0.2
    bank_error_sigma: float = 0.25
    model_weights: tuple[float, ...] = ()


def read_arrivals(path: Path, columns: Mapping[str, str] | None = None) -> np.ndarray:
    """Return the submission times of a trace in seconds, rising: numbers or dates.

    The column is `submission_time` or `submitted_s`, or what `columns` calls `submission_time`.

    Raises:
        SchedulingError: the file, the column or a value cannot be used; it names file and line.
    """
    names = dict(columns or {})
    if unknown := sorted(set(names) - {"submission_time"}):
        raise SchedulingError(f"--columns: expected submission_time=NAME; got {unknown[0]}")
    table = read_table(
        path, (), ("submission_time", "submitted_s"), names=names, error=SchedulingError
    )
    column = "submitted_s" if "submission_time" not in table and not names else "submission_time"
    if column not in table:
        # The error names the columns that are there.
        table = read_table(path, ("submission_time",), names=names, error=SchedulingError)
    return np.sort(table.seconds(column))


def window(arrivals_s: np.ndarray, start_day: float, days: float) -> np.ndarray:
    """Return the arrivals of `days` days from `start_day` after the trace's first, from 0.

    Raises `SchedulingError` where the window holds fewer than two arrivals.
    """
    if len(arrivals_s) == 0:
        raise SchedulingError("the trace has no arrivals")
    start_s = arrivals_s[0] + start_day * DAY_S
    inside = arrivals_s[(arrivals_s >= start_s) & (arrivals_s < start_s + days * DAY_S)]
    if len(inside) < 2:
        raise SchedulingError(
            f"window of {days:g} days from day {start_day:g}: {len(inside)} arrivals; "
            "expected at least 2"
        )
    result: np.ndarray = inside - inside[0]
    return result


def generate(
    arrivals_s: np.ndarray, cluster: Cluster, options: WorkloadOptions, seed: int
) -> tuple[Job, ...]:
    """Return jobs at `arrivals_s`, compressed to `options.load`; equal seeds give equal jobs."""
    for name, values in (("load", (options.load,)), ("slack", options.slacks)):
        for value in values:
            if not 0 < value < math.inf:
                raise SchedulingError(f"{name}: {value}: expected a number above 0")
    if seed < 0:
        raise SchedulingError(f"seed: {seed}: expected 0 or more")
    generator = np.random.default_rng(seed)
    count = len(arrivals_s)
    models = list(cluster.models.values())
    weights = np.asarray(_weights(options.model_weights, models))
    chosen = generator.choice(len(models), size=count, p=weights / weights.sum())
    cold, bank = options.ita.draw(generator, count)
    slack = generator.choice(options.slacks, size=count)
    cold_error = np.exp(options.cold_error_sigma * generator.standard_normal(count))
    bank_error = np.exp(options.bank_error_sigma * generator.standard_normal(count))
    work = [least_gpu_s(models[m], c, b) for m, c, b in zip(chosen, cold, bank, strict=True)]
    span_s = float(arrivals_s[-1] - arrivals_s[0])
    wanted_s = math.fsum(work) / (options.load * cluster.gpus)
    times = (arrivals_s - arrivals_s[0]) * (wanted_s / span_s if span_s else 0.0)
    jobs = []
    for index in range(count):
        model = models[chosen[index]]
        submitted_s = round(float(times[index]), 3)
        fewest = model.worker_counts[0]
        cold_s = model.warm_up_s + cold[index] * model.iteration_s[fewest]
        jobs.append(
            Job(
                job_id=f"j{index:06d}",
                base_model=model.name,
                submitted_s=submitted_s,
                deadline_s=round(submitted_s + float(slack[index]) * cold_s, 3),
                iterations_cold=float(cold[index]),
                iterations_bank=float(bank[index]),
                iterations_cold_estimate=float(max(1, round(cold[index] * cold_error[index]))),
                iterations_bank_estimate=float(max(1, round(bank[index] * bank_error[index]))),
            )
        )
    return tuple(jobs)


def least_gpu_s(model: ModelSpec, cold: float, bank: float) -> float:
    """Return the fewest GPU-seconds that a job can take on workers that are warm already."""
    per_iteration = model.least_gpu_s_per_iteration
    return float(min(cold * per_iteration, model.lookup_s + bank * per_iteration))


def _weights(given: Sequence[float], models: Sequence[ModelSpec]) -> Sequence[float]:
    if not given:
        return [1 / (rank + 1) for rank in range(len(models))]
    if len(given) != len(models) or min(given) < 0 or sum(given) <= 0:
        raise SchedulingError(f"model_weights: expected {len(models)} weights, not all zero")
    return given


def read_ita(path: Path) -> ItaDistribution:
    """Return measured pairs from a table with `iterations_cold, iterations_bank`.

    Raises:
        SchedulingError: a column is missing or a value is not a positive, finite number.
    """
    table = read_table(path, ("iterations_cold", "iterations_bank"), error=SchedulingError)
    cold, bank = (table.numbers(name, above=0.0).tolist() for name in table.cells)
    return ItaDistribution(pairs=tuple(zip(cold, bank, strict=True)))
