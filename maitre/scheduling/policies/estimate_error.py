"""How wrong the iteration estimates are, learned from the jobs that have finished.

The ratio true / estimated iterations is kept for the pool's last finished jobs, beside a few
ratios of a prior that fade as real ones come in. A running job's remaining work is a quantile of
that distribution given how far the job already is.
"""

from bisect import bisect_right
from collections.abc import Sequence

from maitre.scheduling.snapshot import Completion, JobView

# A log-normal of sigma 0.25 at its quantiles 1/16, 3/16, ... 15/16.
PRIOR_RATIOS = (0.68, 0.80, 0.88, 0.96, 1.04, 1.13, 1.25, 1.47)
_REMEMBERED = 100


class EstimateError:
    """Quantiles of a job's true iterations, of cold starts and of bank starts of one pool."""

    def __init__(self, completions: Sequence[Completion]) -> None:
        self._ratios: dict[bool, list[float]] = {False: [], True: []}
        for completion in completions[-_REMEMBERED:]:
            if completion.iterations_estimate > 0:
                ratio = completion.iterations / completion.iterations_estimate
                self._ratios[completion.banked].append(ratio)
        for ratios in self._ratios.values():
            ratios += PRIOR_RATIOS
            ratios.sort()

    def quantile(self, banked: bool, quantile: float) -> float:
        """Return the `quantile` of true / estimated iterations, of a job that has not started."""
        ratios = self._ratios[banked]
        return ratios[min(len(ratios) - 1, int(quantile * len(ratios)))]

    def left(self, job: JobView, done: float, quantile: float) -> float:
        """Return the `quantile` of the iterations left to a job that has done `done` iterations."""
        estimate = (
            job.iterations_bank_estimate if job.lookup_ended else job.iterations_cold_estimate
        )
        if estimate <= 0:
            return 0.0
        ratios = self._ratios[job.lookup_ended]
        count = len(ratios)
        first = bisect_right(ratios, done / estimate) if done > 0 else 0
        if first >= count:
            return 0.1 * done  # further than any before: a tenth more
        left = ratios[first + int(quantile * (count - first))] * estimate - done
        return left if left > 0 else 0.0
