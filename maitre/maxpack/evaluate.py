"""Scores a capacity model on traces that it has not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.scores import (
    MaxpackScores,
    Reliability,
    macro_f1,
    reliability,
    signed_error,
    symmetric_error,
)
from maitre.maxpack.targets import log_target


def evaluate(model: MaxpackModel, frame: pd.DataFrame) -> MaxpackScores:
    """Score a model on traces it has not seen; rows that ran out of memory are left out."""
    ran = frame[~frame["out_of_memory"].astype(bool)]
    predicted = model.predict(ran)
    healthy = ran["healthy"].to_numpy(dtype=bool)
    risk = predicted["risk"].to_numpy()
    _, has_ttft = log_target("ttft", ran)
    _, has_itl = log_target("itl", ran)
    throughput = predicted["throughput_tps"].to_numpy(), ran["throughput_tps"].to_numpy()
    return MaxpackScores(
        rows=len(ran),
        throughput_error=symmetric_error(*throughput),
        throughput_bias=signed_error(*throughput),
        ttft_error=symmetric_error(
            predicted["ttft_p99_ms"].to_numpy()[has_ttft], ran["ttft_p99_ms"].to_numpy()[has_ttft]
        ),
        itl_error=symmetric_error(
            predicted["itl_mean_ms"].to_numpy()[has_itl], ran["itl_mean_ms"].to_numpy()[has_itl]
        ),
        starvation_macro_f1=macro_f1(
            predicted["starved_probability"].to_numpy() > 0.5, ran["starved"].to_numpy(dtype=bool)
        ),
        health_macro_f1=macro_f1(risk > 0.5, ~healthy),
        health_brier=float(np.mean((risk - ~healthy) ** 2)),
        starvation_brier=float(
            np.mean(
                (predicted["starved_probability"].to_numpy() - ran["starved"].to_numpy(dtype=bool))
                ** 2
            )
        ),
    )


def risk_reliability(model: MaxpackModel, frame: pd.DataFrame) -> Reliability:
    """Return how often servers of each predicted risk were unhealthy, out-of-memory rows aside."""
    ran = frame[~frame["out_of_memory"].astype(bool)]
    return reliability(model.predict(ran)["risk"].to_numpy(), ~ran["healthy"].to_numpy(dtype=bool))
