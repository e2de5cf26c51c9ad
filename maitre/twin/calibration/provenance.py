"""What a fitted profile says of itself: where its constants came from, and how well they fit."""

from collections.abc import Collection
from typing import Any

from maitre.twin.calibration.errors_by_regime import FIGURES, errors
from maitre.twin.profile import ServerProfile


def provenance(
    start: ServerProfile,
    validation_scenarios: Collection[str],
    prefill_ms_per_step: float | None,
    rounds: int,
    front_fitted: bool,
) -> dict[str, Any]:
    """Return the section `provenance`; the caller adds where the measurements are from."""
    given = "" if prefill_ms_per_step is None else f"; prefill given: {prefill_ms_per_step:.5g} ms"
    origin = f"{start.name} ({start.fingerprint()})"
    return {
        "started_from": origin,
        "memory": "calib_memory: servers that started",
        "step": f"calib_step_latency and real_runs_share{given}",
        "loading": "calib_loading medians; switch_ms from runs",
        "api": "scrape costs and transit_ms from timeseries_share, the rest as in the start"
        if front_fitted
        else "as in the start",
        "valid": "as in the start",
        "validation_scenarios": list(validation_scenarios),
        "fitted_with": f"maitre twin calibrate, {rounds} rounds",
    }


def fit_errors(comparison: Any) -> dict[str, float]:
    """Return errors and biases (%) over the validation runs and over the others."""
    found: dict[str, float] = {}
    for part, mask in (
        ("validation", comparison["validation"]),
        ("fit", ~comparison["validation"]),
    ):
        if not mask.any():
            continue
        row = errors(comparison[mask])["all"]
        found[f"{part}_runs"] = row["runs"]
        for figure in FIGURES:
            for kind in ("error", "bias"):
                found[f"{part}_{figure}_{kind}_percent"] = row[f"{figure}_{kind}_percent"]
    return found
