"""When to give idle workers back, and how long to keep one: its wait against its warm-up.

The i-th idle worker of a pool is needed when i more jobs arrive. From the pool's past, the time
from each completion to the i-th arrival after it is a sample of that wait. A window t costs
min(wait, t) seconds held and, where the wait is longer, a warm-up; the window of least mean cost
over the samples is kept. With too few samples it is the warm-up itself, which never costs
more than twice what hindsight would (the ski-rental rule).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from maitre.scheduling.actions import Action, StopWorker
from maitre.scheduling.snapshot import Pool

_SAMPLES = 64
_FEWEST_SAMPLES = 8
# Times are sums of floats: a window that ends now may seem to end this much later.
_SAME_MOMENT_S = 1e-9


def stop_idle(
    pool: Pool, time_s: float, windows_s: Iterable[tuple[str, float]]
) -> tuple[list[Action], float]:
    """Stop the idle workers whose window is over; also return when the next window ends.

    `windows_s` pairs a worker with the seconds for which it may be idle. The time is infinite
    where no window still runs.
    """
    actions: list[Action] = []
    wake_s = float("inf")
    for worker, window_s in windows_s:
        ends_s = pool.idle[worker].since_s + window_s
        if ends_s <= time_s + _SAME_MOMENT_S:
            actions.append(StopWorker(worker))
        else:
            wake_s = min(wake_s, ends_s)
    return actions, wake_s


def idle_windows_s(
    pool: Pool, time_s: float, levels: int, warmth_s: float, horizon: float = 4.0
) -> Sequence[float]:
    """Return the windows of `levels` idle workers, beginning with the worker that is used first.

    `warmth_s` is what a warm worker is worth when it is needed, in GPU-seconds (the warm-up, and
    more where a late start risks a deadline). Windows are at most `horizon` times that.
    """
    longest_s = horizon * warmth_s
    arrivals = np.asarray(pool.arrivals_s[-4 * _SAMPLES - levels :])
    ends = np.asarray([done.finished_s for done in pool.completions[-2 * _SAMPLES :]])
    if len(arrivals):
        ends = ends[(ends <= time_s - longest_s) & (ends >= arrivals[0])][-_SAMPLES:]
    if len(ends) < _FEWEST_SAMPLES:
        return [warmth_s] * levels
    after = np.searchsorted(arrivals, ends, side="right")
    padded = np.append(arrivals, np.full(levels + 1, np.inf))
    return [
        _best_window_s(padded[after + level] - ends, warmth_s, longest_s) for level in range(levels)
    ]


def _best_window_s(waits_s: np.ndarray, warmth_s: float, longest_s: float) -> float:
    """Return the window of least mean cost: 0, or one of the waits seen."""
    waits = np.sort(waits_s)
    short = waits[waits <= longest_s]
    if len(short) == 0:
        return 0.0
    count = len(waits)
    rank = np.arange(1, len(short) + 1)
    costs = (np.cumsum(short) + (count - rank) * (short + warmth_s)) / count
    best = int(np.argmin(costs))
    return float(short[best]) + 0.01 if costs[best] < warmth_s else 0.0
