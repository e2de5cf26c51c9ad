"""The whole fit: parts from their tables, then rounds of simulating the runs and refitting."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maitre.progress import Progress
from maitre.twin.calibration.front import fit_front
from maitre.twin.calibration.loading import fit_loading
from maitre.twin.calibration.memory import fit_memory
from maitre.twin.calibration.provenance import fit_errors, provenance
from maitre.twin.calibration.runs import Traffic, simulation_of, usable
from maitre.twin.calibration.step_time import (
    calibration_rows,
    fit_base,
    fit_lora,
    run_row,
    step_of,
)
from maitre.twin.calibration.tables import Tables
from maitre.twin.errors import require
from maitre.twin.profile import ServerProfile
from maitre.twin.result import SimulationResult
from maitre.twin.simulate import simulate

TRACE_ROWS = 4000
# Above this the load generator, not the server, decides what a run shows.
MOST_RPS = 110.0


@dataclass(frozen=True)
class Calibration:
    """A fitted profile and, for each usable run, what was measured beside what it predicts."""

    profile: ServerProfile
    comparison: Any


def calibrate(
    tables: Tables,
    start: ServerProfile,
    traffic: Traffic,
    *,
    validation_scenarios: Collection[str] = (),
    prefill_ms_per_step: float | None = None,
    rounds: int = 3,
    seed: int = 3,
    progress: Progress | None = None,
) -> Calibration:
    """Fit a profile, beginning with the constants of `start`.

    Runs of `validation_scenarios` take no part in the fit; the comparison marks them. The front is
    that of `start`, unless `tables` has time series; the valid range is always that of `start`.

    Raises:
        TwinInputError: a table lacks rows that a part needs, a validation scenario that no run is
            of, or no run left for the fit.
    """
    require(rounds >= 1, f"calibration: rounds must be at least 1, not {rounds}")
    runs = usable(tables.runs)
    fitted = _runs_to_fit(runs, validation_scenarios)
    memory, memory_fit = fit_memory(
        tables.memory, start.memory.max_model_len, start.memory.block_tokens
    )
    loading, loading_fit = fit_loading(tables.loading, start.loading.switch_ms)
    steps = calibration_rows(tables.steps, prefill_ms_per_step)
    base = fit_base(steps)
    profile = start.model_copy(update={"memory": memory, "loading": loading})
    front_fit: dict[str, Any] = {}
    if tables.timeseries is not None:
        api, front_fit = fit_front(tables.timeseries, fitted, profile, traffic, seed, progress)
        profile = profile.model_copy(update={"api": api})
    for turn in range(rounds):
        profile = _round(profile, base, steps, fitted, traffic, seed, f"round {turn + 1}", progress)
    comparison = compare(profile, runs, traffic, seed, progress)
    comparison["validation"] = comparison["scenario"].isin(validation_scenarios)
    fit = {**memory_fit, **loading_fit, **front_fit, "runs_in_the_fit": len(fitted)}
    written = provenance(start, validation_scenarios, prefill_ms_per_step, rounds, bool(front_fit))
    profile = profile.model_copy(
        update={"provenance": written, "fit": {**fit, **fit_errors(comparison)}}
    )
    return Calibration(profile, comparison)


def _runs_to_fit(runs: Any, validation_scenarios: Collection[str]) -> Any:
    """Return the runs that the fit may see."""
    for scenario in validation_scenarios:
        require(
            (runs["scenario"] == scenario).any(),
            f"calibration: no usable run is of the validation scenario {scenario!r}",
        )
    fitted = runs[
        ~runs["scenario"].isin(validation_scenarios) & (runs["offered_rps_nominal"] < MOST_RPS)
    ]
    require(
        len(fitted) > 0,
        f"calibration: no run is left to fit (usable, under {MOST_RPS:g} requests/s, not kept out)",
    )
    return fitted


def _round(
    profile: ServerProfile,
    base: dict[str, float],
    steps: Any,
    fitted: Any,
    traffic: Traffic,
    seed: int,
    stage: str,
    progress: Progress | None,
) -> ServerProfile:
    """Simulate the runs with `profile`, and fit the adapters' terms to them."""
    rows = []
    for place, (_, run) in enumerate(fitted.iterrows()):
        result = _simulate_traced(profile, run, traffic, seed)
        row = run_row(run, result, traffic, profile.loading.switch_ms)
        if row is not None:
            rows.append(row)
        if progress is not None:
            progress(place + 1, len(fitted), stage)
    require(len(rows) > 0, "calibration: no run of the fit decodes anything when simulated")
    found = fit_lora(base, steps, pd.DataFrame(rows))
    switched = profile.loading.model_copy(update={"switch_ms": round(found["load"], 3)})
    return profile.model_copy(update={"step": step_of(found), "loading": switched})


def _simulate_traced(
    profile: ServerProfile, run: Any, traffic: Traffic, seed: int
) -> SimulationResult:
    server, workload = simulation_of(run, traffic)
    every = max(1, int(float(run["completed"]) * 2.2 / TRACE_ROWS))
    return simulate(profile, server, workload, seed, trace_rows=TRACE_ROWS, trace_every=every)


def compare(
    profile: ServerProfile,
    runs: Any,
    traffic: Traffic,
    seed: int = 3,
    progress: Progress | None = None,
) -> Any:
    """Return a data frame with a row per run: launch options, measurements, predictions."""
    rows = []
    for place, (_, run) in enumerate(runs.iterrows()):
        result = simulate(profile, *simulation_of(run, traffic), seed)
        rows.append(comparison_row(run, result, traffic))
        if progress is not None:
            progress(place + 1, len(runs), "comparison")
    return pd.DataFrame(rows)


def comparison_row(run: Any, result: SimulationResult, traffic: Traffic) -> dict[str, Any]:
    """Return the measured and the predicted figures of one run.

    Offered load is counted as the measurement does: requests sent times the tokens asked for,
    which is a little more than the tokens that were answered.
    """
    asked = traffic.mean_input_tokens + float(run["pool_mean_output_tokens"])
    answered = traffic.mean_input_tokens + traffic.mean_output_tokens
    ratio = result.throughput_ratio * answered / asked
    return {
        "run_id": run["run_id"],
        "scenario": run["scenario"],
        "slots": int(run["max_loras"]),
        "adapters": int(run["max_cpu_loras"]),
        "rank": int(run["max_lora_rank"]),
        "offered_rps": float(run["offered_rps_nominal"]),
        "client_collapsed": bool(run["client_collapsed"]),
        "throughput_tps": float(run["total_throughput_tps"]),
        "throughput_tps_predicted": result.throughput_tps,
        "itl_ms": float(run["itl_mean_ms"]),
        "itl_ms_predicted": result.itl_ms.mean,
        "ttft_ms": float(run["ttft_mean_ms"]),
        "ttft_ms_predicted": result.ttft_ms.mean,
        "ratio": float(run["throughput_ratio"]),
        "ratio_predicted": ratio,
        "starved": float(run["throughput_ratio"]) < 0.9,
        "starved_predicted": ratio < 0.9,
    }
