"""Estimates from a running job's losses how many iterations it needs in all.

The live system puts the result into the job's view in place of the first estimate. The curve is
loss(t) = c + 1 / (a t + b), the form that Optimus (EuroSys'18) fits to training losses.
"""

from collections.abc import Sequence

import numpy as np

_FEWEST_POINTS = 5
_ASYMPTOTES = 40


def iterations_to_loss(
    iterations: Sequence[float], losses: Sequence[float], target: float
) -> float | None:
    """Return the iterations at which the fitted curve reaches `target`; `None` if it never does.

    `iterations` rise and have one loss each. Also `None` with fewer than five points or losses that
    do not fall. Raises `ValueError` for lengths that differ or values that are not finite.
    """
    at = np.asarray(iterations, dtype=float)
    seen = np.asarray(losses, dtype=float)
    if at.shape != seen.shape or not (np.isfinite(at).all() and np.isfinite(seen).all()):
        raise ValueError("iterations and losses: expected finite values, one loss an iteration")
    reached = np.flatnonzero(seen <= target)
    if len(reached):
        return float(at[reached[0]])
    if len(at) < _FEWEST_POINTS:
        return None
    lowest, span = seen.min(), seen.max() - seen.min()
    if span <= 0:
        return None
    best: tuple[float, float, float, float] | None = None
    for asymptote in lowest - span * np.geomspace(0.02, 4.0, _ASYMPTOTES):
        slope, offset = np.polyfit(at, 1.0 / (seen - asymptote), 1)
        fitted = slope * at + offset
        if slope <= 0 or fitted.min() <= 0:
            continue
        error = float(np.sum((asymptote + 1.0 / fitted - seen) ** 2))
        if best is None or error < best[0]:
            best = (error, float(asymptote), float(slope), float(offset))
    if best is None or target <= best[1]:
        return None
    _, asymptote, slope, offset = best
    return float(max(at[-1], (1.0 / (target - asymptote) - offset) / slope))
