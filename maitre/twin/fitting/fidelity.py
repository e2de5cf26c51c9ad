"""How far the twin is off on measured loads: the same arrivals replayed in it."""

from typing import Any

import numpy as np
import pandas as pd

from maitre.twin.calibration.errors_by_regime import bias_percent, symmetric_error_percent
from maitre.twin.errors import require
from maitre.twin.fitting.capacity import server_config
from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.fit import ProfileIdentity, fit_profile
from maitre.twin.fitting.points import BASE
from maitre.twin.fitting.samples import check_samples, completed_in_time, gaps_ms
from maitre.twin.profile import ServerProfile
from maitre.twin.result import STARVATION_RATIO
from maitre.twin.simulate import simulate
from maitre.twin.workload import Workload

FIGURES = ("throughput_tps", "itl_ms", "ttft_ms")
CLEAR_MARGIN = 0.1


def compare_loads(profile: ServerProfile, samples: Any, server: MeasuredServer) -> pd.DataFrame:
    """Return one row per load: measured and predicted throughput (tokens/s), latencies, starvation.

    Loads without an adapter are left out: the twin serves adapters only.

    Raises:
        TwinInputError: the samples hold no load.
    """
    check_samples(samples)
    loads = samples[(samples["kind"] == "load") & (samples["adapter"] != BASE)]
    require(len(loads) > 0, "samples: there is no load among them")
    rows = [
        {"point": name, "role": part["role"].iloc[0], **_row(profile, part, server)}
        for name, part in loads.groupby("point", sort=False)
    ]
    return pd.DataFrame(rows)


def _row(profile: ServerProfile, part: Any, server: MeasuredServer) -> dict[str, Any]:
    duration_s = float(part["duration_s"].iloc[0])
    trace = pd.DataFrame(
        {
            "arrival_s": part["sent_s"],
            "adapter": part["adapter"],
            "input_tokens": part["input_tokens"],
            "output_tokens": part["asked_tokens"],
        }
    )
    ranks = {str(name): int(rank) for name, rank in zip(part["adapter"], part["rank"], strict=True)}
    workload = Workload.from_trace(trace, ranks=ranks, duration_s=duration_s)
    config = server_config(server, len(ranks))
    result = simulate(profile, config, workload)
    done = completed_in_time(part)
    offered = float((part["input_tokens"] + part["asked_tokens"]).sum()) / duration_s
    tps = float((done["input_tokens"] + done["output_tokens"]).sum()) / duration_s
    gaps = gaps_ms(done)
    ttft = 1e3 * (done["first_token_s"] - done["sent_s"])
    return {
        "adapters": len(ranks),
        "slots": server.max_loras,
        "requests": len(part),
        "completed": len(done),
        "completed_predicted": result.completed,
        "offered_tps": offered,
        "throughput_tps": tps,
        "throughput_tps_predicted": result.throughput_tps,
        "ratio": tps / offered,
        "ratio_predicted": result.throughput_tps / offered,
        "itl_ms": float(gaps.mean()) if len(gaps) else np.nan,
        "itl_ms_predicted": result.itl_ms.mean,
        "ttft_ms": float(ttft.mean()) if len(ttft) else np.nan,
        "ttft_ms_predicted": result.ttft_ms.mean,
        "starved": tps / offered < STARVATION_RATIO,
        "starved_predicted": result.throughput_tps / offered < STARVATION_RATIO,
        "clear": abs(tps / offered - STARVATION_RATIO) > CLEAR_MARGIN * STARVATION_RATIO,
    }


def errors_by_role(comparison: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return `summary` of the loads of each role: `fit` and `validation`."""
    return {str(role): summary(part) for role, part in comparison.groupby("role", sort=True)}


def fit_and_compare(
    samples: Any, server: MeasuredServer, identity: ProfileIdentity
) -> tuple[ServerProfile, pd.DataFrame]:
    """Fit a profile and replay the loads; the errors by role stand in the profile's `fit`.

    Raises:
        TwinInputError: too few usable bursts, or no loads.
    """
    profile = fit_profile(samples, server, identity)
    comparison = compare_loads(profile, samples, server)
    errors = errors_by_role(comparison)
    return profile.model_copy(update={"fit": {**profile.fit, **errors}}), comparison


def summary(comparison: pd.DataFrame) -> dict[str, float]:
    """Return errors and biases in percent, and how often starvation was predicted wrongly."""
    found: dict[str, float] = {"loads": len(comparison)}
    for name in FIGURES:
        pair = comparison[[f"{name}_predicted", name]].dropna()
        predicted, measured = pair[f"{name}_predicted"], pair[name]
        found[f"{name}_error_percent"] = round(symmetric_error_percent(predicted, measured), 2)
        found[f"{name}_bias_percent"] = round(bias_percent(predicted, measured), 2)
    wrong = comparison["starved"] != comparison["starved_predicted"]
    found["starvation_wrong"] = int(wrong.sum())
    found["starvation_wrong_by_more_than_10_percent"] = int((wrong & comparison["clear"]).sum())
    return found
