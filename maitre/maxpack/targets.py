"""What the capacity model learns from a trace, as numbers relative to the steady state's."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.inputs import FEATURES

REGRESSORS = ("throughput", "ttft", "itl")
CLASSIFIERS = ("starved", "unhealthy")
COLUMNS = (
    "offered_tps",
    "measured_offered_tps",
    "throughput_tps",
    "starved",
    "healthy",
    "ttft_p99_ms",
    "itl_mean_ms",
    "out_of_memory",
)
_WAITING = FEATURES.index("fill_waiting")
_QUEUE_WAIT, _OFFERED = FEATURES.index("queue_wait_ms"), FEATURES.index("offered_tps")
# Traces last an hour; what still waits at its end is not delivered. Long waits are known roughly.
_HOUR_MS, _MOST_WAITING = 3.6e6, 0.1


def log_shortfall(x: np.ndarray, log_throughput: np.ndarray) -> np.ndarray:
    """Return the logarithm of offered over expected throughput, within bounds.

    A server starves where the quotient is above 1 / 0.9. `log_throughput` is the regressor's
    estimate for these rows of `FEATURES`.
    """
    return np.clip(-log_throughput - np.log(_delivered_part(x)), -0.05, 1.2)


def reference_tps(x: np.ndarray) -> np.ndarray:
    """Return the offered load that a server without fluctuations would deliver within an hour."""
    return x[:, _OFFERED] * _delivered_part(x)


def _delivered_part(x: np.ndarray) -> np.ndarray:
    waiting = np.minimum(x[:, _QUEUE_WAIT] / _HOUR_MS, _MOST_WAITING)
    return np.minimum(1.0 - waiting, 1.0 / np.maximum(x[:, _WAITING], 1.0))


def log_target(name: str, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm that a regressor learns, and the rows in which it is known."""
    if name == "throughput":
        # Relative to the load that came: its size is chance and says nothing about the server.
        came = frame["measured_offered_tps"].to_numpy(dtype=np.float64)
        reference = came * _delivered_part(frame[list(FEATURES)].to_numpy(dtype=np.float64))
        ratio = frame["throughput_tps"].to_numpy(dtype=np.float64) / np.maximum(reference, 1e-9)
    else:
        column = {"ttft": "ttft_p99_ms", "itl": "itl_mean_ms"}[name]
        ratio = frame[column].to_numpy(dtype=np.float64)
    known = np.isfinite(ratio) & (ratio > 0)
    return np.log(np.where(known, ratio, 1.0)), known


def label(name: str, frame: pd.DataFrame) -> np.ndarray:
    """Return the truth that a classifier learns."""
    if name == "starved":
        return frame["starved"].to_numpy(dtype=bool)
    return ~frame["healthy"].to_numpy(dtype=bool)
