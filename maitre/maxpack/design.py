"""Designed configurations, simulated by the twin: what the capacity model learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import qmc

from maitre.maxpack.features import SetSums, adapter_terms
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.health import HealthRule
from maitre.maxpack.inputs import feature_frame
from maitre.maxpack.measure import measure_many
from maitre.maxpack.options import SLOTS, ServerOptions, default_lengths, rank_tiers
from maitre.twin import (
    AdapterLoad,
    Lengths,
    ServerConfig,
    ServerProfile,
    Workload,
)

Point = tuple[ServerConfig, Workload]
Progress = Callable[[int, int], None]

# Counted up when the same seed comes to mean other configurations or other columns.
DESIGN_VERSION = 2

_DIMENSIONS = 9
# Designed loads as multiples of what the steady state says a server sustains: most of them
# around the limit, where the model has to be sharp; the measured overloads reach four times it.
_FILL_RANGE = (0.15, 6.0)
_BOUNDARY = (0.86, 1.1)
_BOUNDARY_SHARE = 0.6
_LOWEST_RATE_RPS = 5e-4
_TOTALS_RPS = np.geomspace(0.02, 600.0, 60)
# Half of the designs have the slots that the steady state likes best for them: those are the
# servers that placements are made of.
_BEST_SLOTS_SHARE = 0.5


def design(
    profile: ServerProfile,
    n: int,
    seed: int = 0,
    *,
    lengths: Lengths | None = None,
    duration_s: float = 3600.0,
) -> list[Point]:
    """`n` configurations that fill the space of adapter sets and server options.

    A scrambled Sobol sequence spans: number of adapters, kind and skew of the rates (log-normal,
    Zipf, two classes), load relative to the steady-state limit, slots, rank tier and rank mix,
    mean lengths. The same for the same seed.
    """
    lengths = lengths or default_lengths()
    points = qmc.Sobol(_DIMENSIONS, scramble=True, rng=np.random.default_rng(seed)).random(
        2 ** max(1, int(np.ceil(np.log2(max(n, 2)))))
    )[:n]
    rng = np.random.default_rng([seed, 1])
    low, high = profile.valid.max_loras
    slots = [count for count in SLOTS if low <= count <= high]
    pairs = [(count, rank) for count in slots for rank in rank_tiers(profile)]
    options = ServerOptions.of_pairs(profile, lengths, pairs)
    return [_point(profile, lengths, options, row, rng, duration_s) for row in points]


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
    """Simulate the points: one row a configuration, its features and what came of it.

    `duration_s` simulated seconds each, from a warm start (`maitre.maxpack.measure`); point i runs
    under seed + i. Columns: the features
    (`maitre.maxpack.inputs.FEATURES`) and `throughput_tps`, `starved` (papers' rule), `healthy`
    (`maitre.maxpack.health`), `ttft_p99_ms` (worst of server and adapters; NaN: no answer at
    all), `ttft_server_p99_ms`, `itl_mean_ms`, `itl_p99_ms`, `preemptions`, `out_of_memory`, and
    the profile with its fingerprint, seed and duration.
    """
    rule = rule or HealthRule()
    runs = [(config, _lasting(workload, duration_s)) for config, workload in points]
    seeds = [seed + i for i in range(len(runs))]
    found = measure_many(profile, runs, seeds, rule, workers=workers, on_progress=on_progress)
    features = point_features(profile, points)
    rows = [
        {
            "measured_offered_tps": measured.offered_tps,
            "throughput_tps": measured.throughput_tps,
            "starved": bool(measured.health.starved),
            "healthy": bool(measured.health.healthy),
            "ttft_p99_ms": _finite(measured.health.worst_ttft_p99_ms),
            "ttft_server_p99_ms": _finite(measured.health.ttft_p99_ms),
            "itl_mean_ms": _finite(measured.itl_mean_ms),
            "itl_p99_ms": _finite(measured.itl_p99_ms),
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


def point_features(profile: ServerProfile, points: Sequence[Point]) -> pd.DataFrame:
    """The model's features of configurations, one row each."""
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


def _point(
    profile: ServerProfile,
    lengths: Lengths,
    options: ServerOptions,
    u: np.ndarray,
    rng: np.random.Generator,
    duration_s: float,
) -> Point:
    most = profile.valid.adapters[1]
    count = max(1, round(float(most ** u[0])))
    tiers = rank_tiers(profile)
    tier = tiers[min(int(u[4] * len(tiers)), len(tiers) - 1)]
    slots = _slots(u[5], count, np.unique(options.max_loras).tolist())
    means = np.array(lengths.means())
    # Half of the designs keep the lengths as they are: most catalogues do.
    scales = np.where(u[6:8] < 0.5, 1.0, 4.0 ** (2 * u[6:8] - 1.5))
    inputs, outputs = (np.full(count, mean) for mean in means * scales)
    shape = _rate_shape(u[1], u[2], count, rng)
    ranks = _ranks(u[8], tier, tiers, count, rng)
    rows = np.flatnonzero(options.max_lora_rank == tier)
    if u[5] >= _BEST_SLOTS_SHARE:
        rows = rows[options.max_loras[rows] == slots]
    limits = _sustained_rps(options, rows, shape, inputs, outputs)
    slots, limit_rps = int(options.max_loras[rows[np.argmax(limits)]]), float(limits.max())
    rates = np.maximum(shape * limit_rps * _fill(u[3]), _LOWEST_RATE_RPS)
    return (
        ServerConfig(max_loras=slots, max_cpu_loras=max(slots, count), max_lora_rank=tier),
        Workload(
            adapters=[
                AdapterLoad(
                    f"a{i}",
                    int(ranks[i]),
                    float(rates[i]),
                    float(inputs[i]) if scales[0] != 1 else None,
                    float(outputs[i]) if scales[1] != 1 else None,
                )
                for i in range(count)
            ],
            lengths=lengths,
            duration_s=duration_s,
        ),
    )


def _rate_shape(kind: float, skew: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rates that sum to 1."""
    if kind < 0.45:
        rates = np.exp(rng.normal(0.0, 1.8 * skew, count))
    elif kind < 0.7:
        rates = np.arange(1, count + 1) ** -(1.5 * skew)
    else:
        hot = rng.random(count) < 0.1 + 0.4 * skew
        rates = np.where(hot, rng.choice([4.0, 16.0, 64.0]), 1.0)
    return rates / rates.sum()


def _fill(u: float) -> float:
    if u < _BOUNDARY_SHARE:
        low, high = _BOUNDARY
        return low + (high - low) * u / _BOUNDARY_SHARE
    low, high = np.log(_FILL_RANGE)
    return float(np.exp(low + (high - low) * (u - _BOUNDARY_SHARE) / (1 - _BOUNDARY_SHARE)))


def _slots(u: float, count: int, offered: list[int]) -> int:
    """A slot for every adapter in a quarter of the designs, fewer in the others."""
    enough = next((slots for slots in offered if slots >= count), offered[-1])
    fewer = [slots for slots in offered if slots < enough]
    part = (u - _BEST_SLOTS_SHARE) / (1 - _BEST_SLOTS_SHARE)
    if part < 0.25 or not fewer:
        return enough
    return fewer[min(int((part - 0.25) / 0.75 * len(fewer)), len(fewer) - 1)]


def _ranks(
    u: float, tier: int, tiers: tuple[int, ...], count: int, rng: np.random.Generator
) -> np.ndarray:
    smaller = [rank for rank in tiers if rank <= tier]
    ranks = np.where(rng.random(count) < u, rng.choice(smaller, count), tier)
    ranks[rng.integers(count)] = tier
    return ranks


def _sustained_rps(
    options: ServerOptions,
    rows: np.ndarray,
    shape: np.ndarray,
    input_tokens: np.ndarray,
    output_tokens: np.ndarray,
) -> np.ndarray:
    """The total rate at which this shape of load fills each configuration in steady state."""
    sums = np.array(
        [
            adapter_terms(shape * total, input_tokens, output_tokens).sum(axis=0)
            for total in _TOTALS_RPS
        ]
    )
    sets = SetSums(sums, np.zeros(len(sums), dtype=np.int64), shape.max() * _TOTALS_RPS)

    def fills(totals: np.ndarray) -> np.ndarray:
        return fluid_features(sets.take(totals), options, rows)[:, 0]

    low = np.zeros(len(rows), dtype=np.int64)
    high = np.full(len(rows), len(_TOTALS_RPS) - 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        under = fills(middle) < 1
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    below, above = fills(low), fills(high)
    part = np.clip((1.0 - below) / np.maximum(above - below, 1e-12), 0.0, 1.0)
    found = _TOTALS_RPS[low] + part * (_TOTALS_RPS[high] - _TOTALS_RPS[low])
    return np.where(below < 1, found, 1.0)


def _lasting(workload: Workload, duration_s: float) -> Workload:
    return Workload(
        adapters=workload.adapters,
        lengths=workload.lengths,
        duration_s=duration_s,
        max_in_flight=workload.max_in_flight,
        burstiness=workload.burstiness,
    )


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")
