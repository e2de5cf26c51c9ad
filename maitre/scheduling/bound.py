"""A clairvoyant lower bound on cost, given how many jobs may be violated.

Every scheduler needs at least this, even one that knows every true count and future arrival:

- A job in time takes at least the GPU-seconds of its cheapest way that fits between submission and
  deadline (any number of workers, with a lookup or without, on workers that are warm already).
- In any interval, the workers that hold a model must do the model's work that lies wholly inside
  it: that work over the interval's length is a number of workers. Each of these workers was warmed;
  or, after a time in which no job of the model was open, held idle through it, if that is shorter.

Which jobs to give up is relaxed: a share between 0 and 1 of each job is given up, and the shares
add up to at most the violations allowed. That is a linear program; HiGHS solves it.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from maitre.scheduling.cluster import Cluster, ModelSpec
from maitre.scheduling.jobs import Job

_MOMENTS = 40


def least_gpu_s(job: Job, model: ModelSpec, gpus: int) -> float | None:
    """Return the fewest GPU-seconds that finish the job by its deadline; `None` if impossible.

    Workers are warm from the job's submission on, and a change of their number is free. The best
    mix of numbers of workers has at most two (a linear program of two rows), hence a closed form.
    """
    window_s = job.deadline_s - job.submitted_s + 0.001
    best = math.inf
    for extra_s, iterations in (
        (0.0, job.iterations_cold),
        (model.lookup_s, job.iterations_bank),
    ):
        left_s = window_s - extra_s
        speeds = [(k, s) for k, s in model.iteration_s.items() if k <= gpus]
        for k, seconds in speeds:
            if iterations * seconds <= left_s:
                best = min(best, extra_s + iterations * k * seconds)
        for k, slow in speeds:
            for m, fast in speeds:
                if slow > fast and iterations * slow > left_s >= iterations * fast:
                    part = (left_s - iterations * fast) / (slow - fast)  # iterations on k
                    gpu_s = part * k * slow + (iterations - part) * m * fast
                    best = min(best, extra_s + gpu_s)
    return None if best == math.inf else best


def clairvoyant_bound(jobs: Sequence[Job], cluster: Cluster, violations: int) -> float:
    """Return GPU-hours that any policy spends at least, with at most `violations` violated jobs.

    The bound is never above the cost of an event log that keeps the contract with `violations` or
    fewer violations. It is 0 where more jobs may be violated than there are.
    """
    work: list[float] = []
    kept: list[Job] = []
    impossible = 0
    for job in jobs:
        gpu_s = least_gpu_s(job, cluster.models[job.base_model], cluster.gpus)
        if gpu_s is None:
            impossible += 1
        else:
            kept.append(job)
            work.append(gpu_s)
    allowed = violations - impossible
    if allowed < 0:
        return math.inf
    if allowed >= len(kept):
        return 0.0
    return _solve(kept, np.asarray(work), cluster, allowed) / 3600


def _solve(jobs: Sequence[Job], work: np.ndarray, cluster: Cluster, allowed: int) -> float:
    """Solve the linear program: each job's share given up, each busy period's workers."""
    count = len(jobs)
    periods = [
        (model, members, min(gap_s, model.warm_up_s))
        for model in cluster.models.values()
        for members, gap_s in _periods(jobs, model.name)
    ]
    cost = np.concatenate([-work, [worker_s for _, _, worker_s in periods]])
    rows: list[tuple[int, int, float]] = [(0, index, 1.0) for index in range(count)]
    limits = [float(allowed)]
    for column, (model, members, _) in enumerate(periods, start=count):
        for first_s, last_s in _intervals([jobs[index] for index in members]):
            inside = [
                index
                for index in members
                if jobs[index].submitted_s >= first_s and jobs[index].deadline_s <= last_s
            ]
            if not inside:
                continue
            row = len(limits)  # the work inside, less what is given up, fits into workers x length
            rows += [(row, index, -work[index]) for index in inside]
            rows.append((row, column, -(last_s - first_s + 0.001)))
            limits.append(-float(work[inside].sum()))
        fewest = float(model.worker_counts[0])
        for index in members:  # a job in time needs at least one set of workers
            rows += [(len(limits), index, -fewest), (len(limits), column, -1.0)]
            limits.append(-fewest)
    row_of, column_of, values = zip(*rows, strict=True)
    matrix = coo_matrix((values, (row_of, column_of)), shape=(len(limits), len(cost)))
    bounds = [(0.0, 1.0)] * count + [(0.0, None)] * len(periods)
    result = linprog(cost, A_ub=matrix.tocsr(), b_ub=limits, bounds=bounds, method="highs")
    if not result.success:
        raise RuntimeError(f"the bound's linear program did not solve: {result.message}")
    return float(work.sum() + result.fun)


def _periods(jobs: Sequence[Job], base_model: str) -> list[tuple[list[int], float]]:
    """Return the model's busy periods (jobs whose windows overlap), each with the gap before it."""
    order = sorted(
        (job.submitted_s, index) for index, job in enumerate(jobs) if job.base_model == base_model
    )
    periods: list[tuple[list[int], float]] = []
    ends_s = -math.inf
    for submitted_s, index in order:
        if submitted_s > ends_s:
            periods.append(([], submitted_s - ends_s))
        periods[-1][0].append(index)
        ends_s = max(ends_s, jobs[index].deadline_s)
    return periods


def _intervals(jobs: Sequence[Job]) -> list[tuple[float, float]]:
    """Return intervals from submissions to deadlines, at most `_MOMENTS` of each, evenly chosen."""
    starts = sorted({job.submitted_s for job in jobs})
    ends = sorted({job.deadline_s for job in jobs})
    return [
        (start, end)
        for start in _evenly_chosen(starts)
        for end in _evenly_chosen(ends)
        if end > start
    ]


def _evenly_chosen(values: Sequence[float]) -> Sequence[float]:
    if len(values) <= _MOMENTS:
        return values
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, _MOMENTS)]
