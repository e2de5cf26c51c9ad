"""Designed configurations, simulated by the twin: what the capacity model learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from maitre.maxpack.design import Point
from maitre.maxpack.features import SetSums, adapter_terms
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.health import HealthRule
from maitre.maxpack.inputs import feature_frame
from maitre.maxpack.options import ServerOptions
from maitre.maxpack.simulate_health import simulate_health
from maitre.progress import Progress
from maitre.twin import Lengths, ServerProfile, Workload


def make_traces(
    profile: ServerProfile,
    points: Sequence[Point],
    duration_s: float = 3600.0,
    seed: int = 0,
    on_progress: Progress | None = None,
    *,
    rule: HealthRule | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Simulate the points; return one row per configuration: its features and the results.

    `duration_s` simulated seconds each, from a warm start (`maitre.maxpack.simulate_health`);
    point i runs under seed + i. Columns: the features
    (`maitre.maxpack.inputs.FEATURES`) and `throughput_tps`, `starved` (papers' rule), `healthy`
    (`maitre.maxpack.health`), `ttft_p99_ms` (worst of server and adapters; NaN: no answer at
    all), `ttft_server_p99_ms`, `itl_mean_ms`, `itl_p99_ms`, `preemptions`, `out_of_memory`, and
    the profile with its fingerprint, seed and duration.
    """
    rule = rule or HealthRule()
    runs = [(config, _cut_to_duration(workload, duration_s)) for config, workload in points]
    seeds = [seed + i for i in range(len(runs))]
    found = simulate_health(profile, runs, seeds, rule, workers=workers, on_progress=on_progress)
    features = point_features(profile, points)
    rows = [
        {
            "measured_offered_tps": measured.offered_tps,
            "throughput_tps": measured.throughput_tps,
            "starved": bool(measured.health.starved),
            "healthy": bool(measured.health.healthy),
            "ttft_p99_ms": _finite_or_nan(measured.health.worst_ttft_p99_ms),
            "ttft_server_p99_ms": _finite_or_nan(measured.health.ttft_p99_ms),
            "itl_mean_ms": _finite_or_nan(measured.itl_mean_ms),
            "itl_p99_ms": _finite_or_nan(measured.itl_p99_ms),
            "preemptions": measured.preemptions,
            "out_of_memory": bool(measured.health.out_of_memory),
            "max_cpu_loras": config.max_cpu_loras,
            "seed": run_seed,
            "duration_s": float(duration_s),
            "ttft_slo_ms": rule.ttft_slo_ms,
            "profile": profile.name,
            "profile_fingerprint": profile.fingerprint(),
        }
        for measured, (config, _), run_seed in zip(found, points, seeds, strict=True)
    ]
    return pd.concat([features, pd.DataFrame(rows)], axis=1)


def at_objective(traces: pd.DataFrame, ttft_slo_ms: float) -> pd.DataFrame:
    """Return the traces with `healthy` judged at another objective for the time to first token.

    The simulations stay as they are: `starved` does not depend on the objective, and
    `ttft_p99_ms` holds the worst 99th percentile of the server and its adapters (NaN: an adapter
    got no answer, so no objective is met).
    """
    in_time = traces["ttft_p99_ms"].to_numpy() <= ttft_slo_ms
    lost = traces["starved"].astype(bool) | traces["out_of_memory"].astype(bool)
    return traces.assign(healthy=in_time & ~lost.to_numpy(), ttft_slo_ms=float(ttft_slo_ms))


def point_features(profile: ServerProfile, points: Sequence[Point]) -> pd.DataFrame:
    """Return the model's features of configurations, one row each."""
    pairs = sorted({(config.max_loras, config.max_lora_rank) for config, _ in points})
    places = {pair: row for row, pair in enumerate(pairs)}
    options: dict[int, tuple[Lengths, ServerOptions]] = {}
    frames = []
    for config, workload in points:
        key = id(workload.lengths)
        if key not in options:
            options[key] = (
                workload.lengths,
                ServerOptions.of_pairs(profile, workload.lengths, pairs),
            )
        row = np.array([places[config.max_loras, config.max_lora_rank]])
        frames.append(_features_of(options[key][1], row, workload))
    return pd.concat(frames, ignore_index=True)


def _features_of(options: ServerOptions, row: np.ndarray, workload: Workload) -> pd.DataFrame:
    mean_in, mean_out = workload.lengths.means()
    loads = workload.adapters
    terms = adapter_terms(
        np.array([load.rate_rps for load in loads]),
        np.array([load.mean_input_tokens or mean_in for load in loads]),
        np.array([load.mean_output_tokens or mean_out for load in loads]),
    )
    ranks = np.array([load.rank for load in loads])
    sets = SetSums.of_groups(terms, ranks, np.zeros(len(loads), dtype=np.int64), 1)
    return feature_frame(sets, options, row, fluid_features(sets, options, row))


def _cut_to_duration(workload: Workload, duration_s: float) -> Workload:
    return Workload(
        adapters=workload.adapters,
        lengths=workload.lengths,
        duration_s=duration_s,
        max_in_flight=workload.max_in_flight,
        burstiness=workload.burstiness,
    )


def _finite_or_nan(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")
