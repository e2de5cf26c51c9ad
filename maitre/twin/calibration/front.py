"""The API server's constants: what a scrape costs a series, and the fixed delays of a request."""

from typing import Any

import numpy as np
from scipy.optimize import nnls

from maitre.twin.errors import require


def fit_scrape(stalls: Any) -> tuple[float, float]:
    """Milliseconds a metric series and a name in it add to a scrape.

    `stalls` has a row a run: `stall_ms` (how much longer than the interval two scrapes late in the
    run were apart), `series` and `names` (what the simulation had counted by then: distinct pairs
    of adapter sets, and the adapter names in them).
    """
    rows = stalls[stalls["series"] > 100]
    require(len(rows) >= 5, "calibration.front: fewer than five runs with metric series")
    weight = 1.0 / np.maximum(rows["stall_ms"].to_numpy(), 50.0)
    design = rows[["series", "names"]].to_numpy(float) * weight[:, None]
    scale = design.max(axis=0)
    found, _ = nnls(design / scale, rows["stall_ms"].to_numpy() * weight)
    per_series, per_name = found / scale
    return float(per_series), float(per_name)


def delay_correction_ms(measured_p50_ms: Any, simulated_p50_ms: Any) -> float:
    """What to add to the fixed delays: the median difference of median times to first token.

    To be given runs in which requests neither queue nor meet long steps.
    """
    difference = np.asarray(measured_p50_ms, float) - np.asarray(simulated_p50_ms, float)
    return float(np.median(difference))
