"""The API server's constants: what a scrape costs a series, and the fixed delays of a request.

A scrape of /metrics that takes long shows in the run's own time series, which the scrapes made:
the next sample comes later than the interval asked for. How many metric series the server had by
then is not measured; the simulation of the run counts them.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from maitre.progress import Progress
from maitre.twin.calibration.runs import Traffic, simulation_of
from maitre.twin.errors import require
from maitre.twin.profile import Api, ServerProfile
from maitre.twin.result import SimulationResult
from maitre.twin.simulate import simulate

# The last part of a run, whose scrapes are compared with the series counted at its end.
LATE_SHARE = 0.05
# Runs whose requests neither queue nor meet long steps: the fixed delays are read off them.
LIGHT_RPS = 5.0


def fit_front(
    timeseries: Any,
    runs: Any,
    profile: ServerProfile,
    traffic: Traffic,
    seed: int = 3,
    progress: Progress | None = None,
) -> tuple[Api, dict[str, Any]]:
    """Return the API constants of `profile`, the cost of scrapes and a request's transit refitted.

    `timeseries` has a row a scrape (`run_id, t_s`). Runs whose load generator was at its limit are
    left out. Returns the constants and what they were fitted on.

    Raises:
        TwinInputError: too few runs with a time series and metric series, or a profile whose
            scrape costs nothing, of which the simulation cannot count the names.
    """
    api = profile.api
    require(api.scrape_per_name_ms > 0, "profile: api.scrape_per_name_ms must be above 0")
    samples = {run_id: part["t_s"].to_numpy() for run_id, part in timeseries.groupby("run_id")}
    served = runs[~runs["client_collapsed"] & runs["run_id"].isin(samples)]
    stalls, delays = [], []
    for place, (_, run) in enumerate(served.iterrows()):
        result = simulate(profile, *simulation_of(run, traffic), seed)
        late_ms = late_scrape_ms(samples[run["run_id"]], float(run["duration_s"]), api)
        if late_ms is not None:
            series, names = result.metric_series, names_of(result, api)
            stalls.append({"stall_ms": late_ms, "series": series, "names": names})
        if run["max_loras"] >= run["max_cpu_loras"] and run["offered_rps_nominal"] < LIGHT_RPS:
            delays.append((float(run["ttft_p50_ms"]), result.ttft_ms.p50))
        if progress is not None:
            progress(place + 1, len(served), "front")
    require(len(stalls) > 0, "calibration.front: no run has a time series to its end")
    per_series, per_name = fit_scrape(pd.DataFrame(stalls))
    correction = delay_correction_ms(*zip(*delays, strict=True)) if delays else 0.0
    found = {
        "scrape_per_series_ms": round(per_series, 5),
        "scrape_per_name_ms": round(per_name, 7),
        "transit_ms": round(max(api.transit_ms + correction, 0.0), 3),
    }
    fit = {"front_runs": len(stalls), "front_light_runs": len(delays)}
    return api.model_copy(update=found), fit


def late_scrape_ms(sample_s: Any, duration_s: float, api: Api) -> float | None:
    """Return how far late scrapes were apart beyond the interval (ms); None without samples."""
    inside = sample_s[(sample_s >= duration_s * (1 - LATE_SHARE)) & (sample_s <= duration_s)]
    if len(inside) < 4:
        return None
    gap_ms = 1e3 * float(np.median(np.diff(inside)))
    return max(gap_ms - 1e3 * api.scrape_interval_s - api.scrape_ms, 0.0)


def names_of(result: SimulationResult, api: Api) -> float:
    """Return the adapter names in all metric series, from the duration of the last scrape."""
    rest_ms = 1e3 * result.scrape_s - api.scrape_ms
    return (rest_ms - api.scrape_per_series_ms * result.metric_series) / api.scrape_per_name_ms


def fit_scrape(stalls: Any) -> tuple[float, float]:
    """Return the milliseconds that a metric series and a name in it add to a scrape.

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
    """Return what to add to the fixed delays: the median difference of median times to first token.

    To be given runs in which requests neither queue nor meet long steps.
    """
    difference = np.asarray(measured_p50_ms, float) - np.asarray(simulated_p50_ms, float)
    return float(np.median(difference))
