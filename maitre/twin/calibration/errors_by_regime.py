"""How far predictions are from measurements, as the published twin measures it."""

from typing import Any

import numpy as np

FIGURES = {"throughput": "throughput_tps", "itl": "itl_ms", "ttft": "ttft_ms"}


def symmetric_error_percent(predicted: Any, measured: Any) -> float:
    """Return 100 mean(|a - b| / (|a| + |b|)): half of the usual symmetric error.

    arXiv 2508.08343 measures by it.
    """
    a, b = np.asarray(predicted, float), np.asarray(measured, float)
    return float(100 * np.mean(np.abs(a - b) / (np.abs(a) + np.abs(b)))) if len(a) else np.nan


def bias_percent(predicted: Any, measured: Any) -> float:
    """Return 100 mean(2 (predicted - measured) / (predicted + measured)): positive is too much."""
    a, b = np.asarray(predicted, float), np.asarray(measured, float)
    return float(100 * np.mean(2 * (a - b) / (a + b))) if len(a) else np.nan


def regimes(comparison: Any) -> dict[str, Any]:
    """Return boolean masks over a comparison: what kinds of runs errors are reported for."""
    starved = comparison["starved"]
    short = comparison["slots"] < comparison["adapters"]
    return {
        "all": starved | True,
        "starved": starved,
        "not starved": ~starved,
        "not starved, a slot for every adapter": ~starved & ~short,
        "not starved, fewer slots than adapters": ~starved & short,
        "slots <= 16": comparison["slots"] <= 16,
        "slots 32..96": comparison["slots"].between(32, 96),
        "slots >= 128": comparison["slots"] >= 128,
        "load generator at its limit": comparison["client_collapsed"],
    }


def errors(comparison: Any) -> dict[str, dict[str, float]]:
    """Return errors and biases of each figure, and starvation missed or false, by regime."""
    found = {}
    for name, mask in regimes(comparison).items():
        part = comparison[mask]
        row: dict[str, float] = {"runs": len(part)}
        for figure, column in FIGURES.items():
            pair = part[f"{column}_predicted"], part[column]
            row[f"{figure}_error_percent"] = round(symmetric_error_percent(*pair), 2)
            row[f"{figure}_bias_percent"] = round(bias_percent(*pair), 2)
        row["starvation_missed"] = int((part["starved"] & ~part["starved_predicted"]).sum())
        row["starvation_false"] = int((~part["starved"] & part["starved_predicted"]).sum())
        found[name] = row
    return found
