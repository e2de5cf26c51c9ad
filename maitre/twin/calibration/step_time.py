"""The step time's coefficients, by non-negative least squares in two stages.

First the steps of a server without adapters, from its own calibration. Then what adapters add, from
the calibration with adapters and from whole runs. A run gives one equation: its mean inter-token
latency is the mean over steps, weighted by the tokens they decode, of a step time that is linear in
the coefficients; the steps themselves are those of a simulation with the coefficients so far.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from maitre.twin.calibration.runs import Traffic
from maitre.twin.calibration.tables import is_full_prefill
from maitre.twin.errors import require
from maitre.twin.profile import Step
from maitre.twin.result import SimulationResult

SMALL_TOKENS = 128.0
GRAPH_TOKENS = 512.0
REFERENCE_RANK = 16.0
BASE = ("base", "token", "over_small", "over_graph", "token_over_graph", "sequence", "kv_token")
LORA = (
    "lora",
    "slot",
    "adapter",
    "adapter_doubling",
    "token_slot",
    "prefill_token",
    "lora_over",
    "lora_token_over",
    "load",
    "waiting",
)
# Share of a run's weight that is left when simulated and measured concurrency differ by 12 %.
TRUSTED_CONCURRENCY = 0.12
CALIBRATION_WEIGHT = 0.3


def terms(
    decoding: Any,
    prefill: Any,
    sequences: Any,
    kv_tokens: Any,
    adapters: Any,
    slots: float,
    rank: float,
    scanned: Any = 0.0,
) -> dict[str, Any]:
    """Return what each coefficient multiplies in `kernel.step_time` (arrays of one shape)."""
    tokens = np.asarray(decoding, np.float64) + np.asarray(prefill, np.float64)
    over = np.maximum(tokens - GRAPH_TOKENS, 0.0)
    has = (np.asarray(adapters) > 0).astype(float)
    return {
        "base": np.ones_like(tokens),
        "token": tokens,
        "over_small": np.maximum(tokens - SMALL_TOKENS, 0.0),
        "over_graph": (over > 0).astype(float),
        "token_over_graph": over,
        "sequence": np.asarray(sequences, np.float64),
        "kv_token": np.asarray(kv_tokens, np.float64),
        "lora": has,
        "slot": has * slots,
        "adapter": np.asarray(adapters, np.float64),
        "adapter_doubling": np.asarray(adapters, np.float64) * np.log2(rank / REFERENCE_RANK),
        "token_slot": has * slots * tokens,
        "prefill_token": has * np.asarray(prefill, np.float64),
        "lora_over": has * (over > 0),
        "lora_token_over": has * over,
        "load": np.zeros_like(tokens),
        "waiting": np.zeros_like(tokens) + scanned,
    }


def calibration_rows(steps: Any, prefill_ms_per_step: float | None = None) -> pd.DataFrame:
    """Return equations of the step calibration: decode steps at full batch, 2,048-token prefills.

    Where a model has no prefill calibration, `prefill_ms_per_step` stands for it.
    """
    rows: list[dict[str, Any]] = []
    for step in steps.to_dict("records"):
        prompt = step["total_input_tokens"] / max(step["num_prompts"], 1)
        if is_full_prefill(step):
            row = terms(0.0, 2048.0, 2048.0 / prompt, 2048.0, 0, 0, REFERENCE_RANK)
            rows.append({**row, "y": step["step_interval_p50_ms"]})
        elif step["kind"] in ("default_decode", "adapters_none_ref", "adapters_in_batch"):
            if not np.isfinite(step["median_itl_ms"]):
                continue
            batch = float(step["set_max_num_seqs"])
            kv_tokens = batch * (step["total_input_tokens"] / step["completed"])
            kv_tokens += batch * step["set_output_len"] / 2
            slots = float(step["set_max_loras"])
            adapters = _adapters_in_batch(step, batch) if slots else 0.0
            rank = 8.0 if slots else REFERENCE_RANK
            rows.append(
                {
                    **terms(batch, 0.0, batch, kv_tokens, adapters, slots, rank),
                    "y": step["median_itl_ms"],
                }
            )
    if prefill_ms_per_step is not None:
        row = terms(0.0, 2048.0, 10.0, 2048.0, 0, 0, REFERENCE_RANK)
        rows += [{**row, "y": prefill_ms_per_step}] * 3
    return pd.DataFrame(rows).astype(float)


def _adapters_in_batch(step: dict[str, Any], batch: float) -> float:
    if np.isfinite(step["adapters_in_batch_mean"]):
        return float(step["adapters_in_batch_mean"])
    served = step["served_adapters"]
    return float(served * (1 - (1 - 1 / served) ** batch))


def run_row(
    run: Any, result: SimulationResult, traffic: Traffic, switch_ms: float
) -> dict[str, Any] | None:
    """Return the equation of one measured run from a traced simulation; None if it did nothing.

    `switch_ms` is the coefficient of `load` that the simulation had.
    """
    trace = result.trace[result.trace["steps"] > 0]
    weight = (trace["steps"] * trace["decoding"]).astype(float)
    if weight.sum() == 0:
        return None
    weight /= weight.sum()
    found = terms(
        trace["decoding"],
        trace["prefill"],
        trace["running"],
        trace["kv_tokens"],
        trace["active"],
        float(run["max_loras"]),
        float(run["max_lora_rank"]),
        trace["scanned"],
    )
    row = {name: float((weight * value).sum()) for name, value in found.items()}
    # The switches in a step; the copies themselves are known and taken off the measured side.
    row["load"] = float((weight * trace["loads"]).sum())
    copies_ms = 1e3 * float((weight * trace["load_s"]).sum()) - switch_ms * row["load"]
    row["y"] = _mean_step_ms(run, result, traffic, weight) - copies_ms
    row["concurrency"] = result.running_mean / max(float(run["running_mean"]), 1e-9)
    return row


def _mean_step_ms(
    run: Any, result: SimulationResult, traffic: Traffic, weight: NDArray[np.float64]
) -> float:
    """Return the measured mean step, weighted by the tokens that steps decode.

    By Little's law: the time that requests spent in the batch per token that they got, over the
    same quantity of the simulation, times the simulation's mean step. That is the engine's own
    time, whatever the API server and the client did to the tokens. Where the load generator
    collapsed, the batch is not seen evenly, and the gaps that the client saw have to do.
    """
    if bool(run["client_collapsed"]):
        return float(run["itl_mean_ms"]) * result.chunk_gap_share
    share = traffic.mean_output_tokens / (traffic.mean_input_tokens + traffic.mean_output_tokens)
    trace = result.trace[result.trace["steps"] > 0]
    simulated_ms = 1e3 * float((weight * trace["first_s"]).sum())
    per_token = result.running_mean / (share * result.throughput_tps)
    measured = float(run["running_mean"]) / float(run["output_throughput_tps"])
    return simulated_ms * measured / per_token


def fit_base(calibration: pd.DataFrame) -> dict[str, float]:
    """Return the coefficients of steps without adapters (ms), from `calibration_rows`."""
    rows = calibration[calibration["adapter"] == 0]
    require(len(rows) > 0, "calibration: calib_step_latency has no steps without adapters")
    scale = 1.0 / rows["y"].to_numpy()
    found = _robust_nnls(rows[list(BASE)].to_numpy() * scale[:, None], np.ones(len(rows)))
    return dict(zip(BASE, map(float, found), strict=True))


def fit_lora(
    base: dict[str, float], calibration: pd.DataFrame, runs: pd.DataFrame
) -> dict[str, float]:
    """Fit all coefficients (ms): `base` unchanged, the adapters' from calibration and runs."""
    rows = calibration[calibration["adapter"] > 0]
    off = np.log(runs["concurrency"].to_numpy()) / TRUSTED_CONCURRENCY
    trust = 1.0 / np.sqrt(1.0 + off**2)
    weight = np.concatenate(
        [trust / runs["y"].to_numpy(), CALIBRATION_WEIGHT / rows["y"].to_numpy()]
    )
    both = pd.concat([runs, rows], ignore_index=True)
    rest = both["y"].to_numpy() - sum(both[name].to_numpy() * base[name] for name in BASE)
    found = _robust_nnls(both[list(LORA)].to_numpy() * weight[:, None], rest * weight)
    return {**base, **dict(zip(LORA, map(float, found), strict=True))}


def step_of(found: dict[str, float]) -> Step:
    """Return the profile's section from fitted coefficients."""

    def digits(name: str) -> float:
        return float(f"{found[name]:.5g}")

    return Step(
        base_ms=digits("base"),
        per_token_ms=digits("token"),
        small_tokens=SMALL_TOKENS,
        per_token_over_small_ms=digits("over_small"),
        graph_tokens=GRAPH_TOKENS,
        over_graph_ms=digits("over_graph"),
        per_token_over_graph_ms=digits("token_over_graph"),
        per_sequence_ms=digits("sequence"),
        per_kv_token_ms=digits("kv_token"),
        per_waiting_ms=digits("waiting"),
        lora_ms=digits("lora"),
        lora_per_slot_ms=digits("slot"),
        per_adapter_ms=digits("adapter"),
        per_adapter_doubling_ms=digits("adapter_doubling"),
        reference_rank=REFERENCE_RANK,
        lora_per_token_slot_ms=digits("token_slot"),
        lora_per_prefill_token_ms=digits("prefill_token"),
        lora_over_graph_ms=digits("lora_over"),
        lora_per_token_over_graph_ms=digits("lora_token_over"),
    )


def _robust_nnls(
    design: NDArray[np.float64], target: NDArray[np.float64], rounds: int = 6
) -> NDArray[np.float64]:
    """Find non-negative least absolute deviations by reweighting."""
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    weight = np.ones(len(target))
    found = np.zeros(design.shape[1])
    for _ in range(rounds):
        found, _ = nnls(design / scale * weight[:, None], target * weight, maxiter=1000)
        weight = 1.0 / np.sqrt(np.abs(design / scale @ found - target) + 0.01)
    return found / scale
