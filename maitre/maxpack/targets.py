"""What the capacity model learns from a trace, as numbers relative to the steady state's."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.inputs import FEATURES

REGRESSORS = ("throughput", "ttft", "itl")
CLASSIFIERS = ("starved", "unhealthy")
COLUMNS = (
    "offered_tps",
    "throughput_tps",
    "starved",
    "healthy",
    "ttft_p99_ms",
    "itl_mean_ms",
    "out_of_memory",
)
_WAITING, _OFFERED = FEATURES.index("fill_waiting"), FEATURES.index("offered_tps")
# A server whose requests wait for slots is slow before it starves.
_FILL_OF = {"starved": _WAITING, "unhealthy": FEATURES.index("fill")}


def log_fill(name: str, x: np.ndarray) -> np.ndarray:
    """Logarithm of the fill that a classifier starts from, within reason; rows of `FEATURES`."""
    return np.log(np.clip(x[:, _FILL_OF[name]], 0.2, 3.0))


def reference_tps(x: np.ndarray) -> np.ndarray:
    """What a server without fluctuations would deliver: the offered load, or its fill's part."""
    return x[:, _OFFERED] / np.maximum(x[:, _WAITING], 1.0)


def log_target(name: str, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm that a regressor learns, and the rows in which it is known."""
    if name == "throughput":
        reference = reference_tps(frame[list(FEATURES)].to_numpy(dtype=np.float64))
        ratio = frame["throughput_tps"].to_numpy(dtype=np.float64) / np.maximum(reference, 1e-9)
    else:
        column = {"ttft": "ttft_p99_ms", "itl": "itl_mean_ms"}[name]
        ratio = frame[column].to_numpy(dtype=np.float64)
    known = np.isfinite(ratio) & (ratio > 0)
    return np.log(np.where(known, ratio, 1.0)), known


def label(name: str, frame: pd.DataFrame) -> np.ndarray:
    """The truth that a classifier learns."""
    if name == "starved":
        return frame["starved"].to_numpy(dtype=bool)
    return ~frame["healthy"].to_numpy(dtype=bool)
