"""A profile from samples of one server.

Step time by non-negative least absolute deviations, relative to what was measured; the sizes
beyond which a token costs more by search. A CPU has no captured graphs and no grid of adapter
slots, so those terms are nought; what its adapters cost is by the token, and more in large steps:
`lora_per_token_ms`, and beyond `graph_tokens` (there are no graphs to count by it)
`lora_per_token_over_graph_ms`.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from maitre.twin.calibration.errors_by_regime import symmetric_error_percent
from maitre.twin.errors import require
from maitre.twin.fitting.design import MOST_RPS, MeasuredServer
from maitre.twin.fitting.equations import TERMS, step_equations
from maitre.twin.fitting.least_deviations import least_deviations
from maitre.twin.fitting.points import BASE
from maitre.twin.fitting.samples import check_samples
from maitre.twin.fitting.steps import load_steps
from maitre.twin.profile import Api, Engine, Loading, Memory, ServerProfile, Step, Valid

SMALL_TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
LARGE_TOKENS = (64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0)
BLOCK_TOKENS = 16
STEPS_TOGETHER = 8


@dataclass(frozen=True)
class ProfileIdentity:
    """What a profile is of; `adapter_load_ms` are (rank, ms) of loads measured at the server."""

    name: str
    base_model: str
    gpu: str
    engine: str
    block_tokens: int = BLOCK_TOKENS
    adapter_load_ms: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class StepFit:
    """The coefficients of a step's time (ms), and how they were fitted.

    `small_tokens` and `large_tokens` are where a token begins to cost more, without and with
    adapters. `equations` has the fitted values in its column `fitted`.
    """

    coefficients: dict[str, float]
    small_tokens: float
    large_tokens: float
    equations: pd.DataFrame

    @property
    def error_percent(self) -> float:
        """Return mean symmetric error over decode steps."""
        decodes = self.equations[self.equations["front"] == 0]
        return symmetric_error_percent(decodes["fitted"], decodes["y"])


def fit_step(equations: pd.DataFrame, steps: pd.DataFrame | None = None) -> StepFit:
    """Fit the coefficients to the equations of `step_equations` and the steps of `load_steps`.

    Bursts say what each term costs, loads how all of them go together, prefill among decodes above
    all; both weigh the same. Steps of a load count by `STEPS_TOGETHER` of them, as a single one's
    time is uncertain by when its tokens happened to arrive.

    Raises:
        TwinInputError: there are fewer than eight equations.
    """
    require(len(equations) >= 8, f"samples: {len(equations)} usable bursts, 8 are needed to fit")
    together = _groups_of_steps(steps) if steps is not None and len(steps) else None
    best: StepFit | None = None
    worst = np.inf
    for small, large in product(SMALL_TOKENS, LARGE_TOKENS):
        rows = _with_knees(equations, small, large)
        design, measured = rows[list(TERMS)].to_numpy(float), rows["y"].to_numpy(float)
        relative, weight = [design / measured[:, None]], [np.full(len(rows), 1.0 / len(rows))]
        if together is not None and steps is not None:
            terms = _with_knees(steps, small, large)[[*TERMS, "y"]].groupby(together).sum()
            relative.append(terms[list(TERMS)].to_numpy(float) / terms[["y"]].to_numpy(float))
            weight.append(np.full(len(terms), 1.0 / len(terms)))
        stacked, weights = np.vstack(relative), np.concatenate(weight)
        found = least_deviations(stacked, np.ones(len(stacked)), weights)
        miss = float(weights @ np.abs(stacked @ found - 1.0))
        if miss < worst - 1e-9:
            worst = miss
            coefficients = dict(zip(TERMS, map(float, found), strict=True))
            best = StepFit(coefficients, small, large, rows.assign(fitted=design @ found))
    assert best is not None
    return best


def _with_knees(rows: pd.DataFrame, small: float, large: float) -> pd.DataFrame:
    """Return the rows with the terms that begin beyond `small` and `large` tokens."""
    return rows.assign(
        over_small=np.maximum(rows["tokens"] - small, 0.0),
        lora_over=rows["lora"] * np.maximum(rows["tokens"] - large, 0.0),
    )


def _groups_of_steps(steps: pd.DataFrame) -> np.ndarray:
    """Return a number for each run of `STEPS_TOGETHER` steps of one load."""
    place = steps.groupby("point").cumcount().to_numpy() // STEPS_TOGETHER
    load = pd.factorize(steps["point"])[0]
    return np.asarray(load * (place.max() + 1) + place)


def fit_profile(samples: Any, server: MeasuredServer, identity: ProfileIdentity) -> ServerProfile:
    """Return a profile of the server from its samples, without those of validation loads.

    Raises:
        TwinInputError: too few usable bursts, or no frame of samples.
    """
    check_samples(samples)
    used = samples[samples["role"] == "fit"]
    steps = load_steps(used, server)
    step = fit_step(step_equations(used), steps)
    loading = fit_loading(used, identity.adapter_load_ms)
    return ServerProfile(
        name=identity.name,
        base_model=identity.base_model,
        engine=Engine.of_text(identity.gpu, identity.engine),
        memory=Memory(
            base_tokens=float(server.kv_cache_tokens),
            per_slot_tokens=0.0,
            per_slot_rank_tokens=0.0,
            max_model_len=server.max_model_len,
            block_tokens=identity.block_tokens,
        ),
        step=_step(step),
        loading=loading,
        api=_api(step),
        valid=_valid_range(used, server),
        provenance={
            "measured_with": "maitre twin measure",
            "step": f"{len(step.equations)} bursts and lone prefills, {len(steps)} steps of loads",
            "loading": "loads at the server, and switches of more adapters than slots",
            "api": "time to first token of lone prompts beyond their step",
            "memory": "the KV cache that the server reports; slots are not seen to take from it",
        },
        fit={
            "equations": len(step.equations),
            "step_error_percent": round(step.error_percent, 2),
            "small_tokens": step.small_tokens,
            "large_tokens": step.large_tokens,
        },
    )


def fit_loading(samples: Any, loads_ms: tuple[tuple[int, float], ...]) -> Loading:
    """Return the times to load an adapter: the switches' times to first token beyond a warm one's.

    From disk to memory: a straight line over the rank through the loads measured at the server.
    """
    switch_ms = 0.0
    switches = samples[(samples["kind"] == "switch") & (samples["outcome"] == "ok")]
    lone = _lone_requests(samples)
    if len(switches) and len(lone):
        cold = 1e3 * (switches["first_token_s"] - switches["sent_s"])
        warm = 1e3 * (lone["first_token_s"] - lone["sent_s"])
        # Half of the adapters' first turns meet a slot that still holds them.
        switch_ms = max(float(cold.median() - warm.median()), 0.0)
    disk, disk_rank = 0.0, 0.0
    if loads_ms:
        ranks = np.array([rank for rank, _ in loads_ms], float)
        times = np.array([ms for _, ms in loads_ms], float)
        disk = float(np.median(times))
        if np.ptp(ranks) > 0:
            slope, start = np.polyfit(ranks, times, 1)
            if slope >= 0 and start >= 0:
                disk, disk_rank = float(start), float(slope)
    return Loading(
        cpu_to_gpu_ms=round(switch_ms, 3),
        cpu_to_gpu_per_rank_ms=0.0,
        disk_to_cpu_ms=round(disk, 3),
        disk_to_cpu_per_rank_ms=round(disk_rank, 4),
        switch_ms=0.0,
    )


def _lone_requests(samples: Any) -> Any:
    """Return warm lone requests for an adapter with a prompt as short as the switches'."""
    lone = samples[
        (samples["kind"] == "burst") & (samples["adapter"] != BASE) & (samples["outcome"] == "ok")
    ]
    alone = lone.groupby("burst")["adapter"].transform("size") == 1
    return lone[alone & (lone["input_tokens"] <= 16)]


def _step(fit: StepFit) -> Step:
    def digits(name: str) -> float:
        return float(f"{fit.coefficients[name]:.5g}")

    return Step(
        base_ms=digits("base"),
        per_token_ms=digits("token"),
        small_tokens=fit.small_tokens,
        per_token_over_small_ms=digits("over_small"),
        graph_tokens=fit.large_tokens,
        over_graph_ms=0.0,
        per_token_over_graph_ms=0.0,
        per_sequence_ms=digits("sequence"),
        per_kv_token_ms=digits("kv_token"),
        lora_ms=digits("lora"),
        lora_per_slot_ms=0.0,
        per_adapter_ms=digits("adapter"),
        per_adapter_doubling_ms=0.0,
        reference_rank=16.0,
        lora_per_token_ms=digits("lora_token"),
        lora_per_token_slot_ms=0.0,
        lora_per_prefill_token_ms=digits("lora_prefill"),
        lora_over_graph_ms=0.0,
        lora_per_token_over_graph_ms=digits("lora_over"),
    )


def _api(fit: StepFit) -> Api:
    """Return the fixed way of a lone request, half before the engine and half after; no scrapes."""
    front_ms = round(fit.coefficients["front"], 3)
    return Api(
        ingress_ms=0.0,
        first_use_ms=0.0,
        transit_ms=front_ms,
        egress_ms=0.0,
        egress_per_sequence_ms=0.0,
        scrape_interval_s=0.0,
        scrape_ms=0.0,
        scrape_per_series_ms=0.0,
        scrape_per_name_ms=0.0,
    )


def _valid_range(samples: Any, server: MeasuredServer) -> Valid:
    adapters = samples.loc[samples["adapter"] != BASE, "adapter"].nunique()
    loads = samples[samples["kind"] == "load"]
    longest = (samples["input_tokens"] + samples["asked_tokens"]).max()
    rates = loads.groupby("point").size() / loads.groupby("point")["duration_s"].first()
    return Valid(
        max_loras=(max(server.max_loras, 1), max(server.max_loras, 1)),
        max_lora_rank=(max(server.max_lora_rank, 1), max(server.max_lora_rank, 1)),
        adapters=(1, max(adapters, 1)),
        offered_rps=(0.0, round(float(rates.max()), 3) if len(rates) else MOST_RPS),
        mean_total_tokens=(1.0, float(longest)),
        max_num_seqs=(1, server.max_num_seqs),
        max_num_batched_tokens=(1, max(server.max_num_batched_tokens, server.max_num_seqs)),
    )
