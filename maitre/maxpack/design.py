"""Designed configurations: what the capacity model learns from, once the twin has run them."""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from maitre.maxpack.features import SetSums, adapter_terms
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.options import ServerOptions, default_lengths, rank_tiers, slot_counts
from maitre.twin import (
    AdapterLoad,
    Lengths,
    ServerConfig,
    ServerProfile,
    Workload,
)

Point = tuple[ServerConfig, Workload]

# Counted up when the same seed comes to mean other configurations or other columns.
DESIGN_VERSION = 4

_DIMENSIONS = 10
# Designed loads as multiples of what the steady state says a server sustains. Most loads are around
# the limit, where the model has to be sharp; the measured overloads reach four times the limit.
_FILL_RANGE = (0.15, 6.0)
_BOUNDARY = (0.9, 1.12)
_BOUNDARY_SHARE = 0.6
# Servers with few slots for many adapters starve in their own way, by waiting: some designs have
# at most a third as many slots as adapters, and a load that fills the slots up to this many times.
_FEW_SLOTS_SHARE, _FEW_SLOTS_LOAD = 0.15, (1.0, 6.0)
_FEWEST_ADAPTERS = 24
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
    """Return `n` configurations that fill the space of adapter sets and server options.

    A scrambled Sobol sequence spans: number of adapters, kind and skew of the rates (log-normal,
    Zipf, two classes), load relative to the steady-state limit, slots, rank tier and rank mix,
    mean lengths, and whether slots are few. Equal seeds give equal designs.
    """
    lengths = lengths or default_lengths()
    points = qmc.Sobol(_DIMENSIONS, scramble=True, rng=np.random.default_rng(seed)).random(
        2 ** max(1, int(np.ceil(np.log2(max(n, 2)))))
    )[:n]
    rng = np.random.default_rng([seed, 1])
    pairs = [(count, rank) for count in slot_counts(profile) for rank in rank_tiers(profile)]
    options = ServerOptions.of_pairs(profile, lengths, pairs)
    return [_point(profile, lengths, options, row, rng, duration_s) for row in points]


def _point(
    profile: ServerProfile,
    lengths: Lengths,
    options: ServerOptions,
    u: np.ndarray,
    rng: np.random.Generator,
    duration_s: float,
) -> Point:
    tiers = rank_tiers(profile)
    tier = tiers[min(int(u[4] * len(tiers)), len(tiers) - 1)]
    means = np.array(lengths.means())
    # Half of the designs keep the lengths as they are: most catalogues do.
    scales = np.where(u[6:8] < 0.5, 1.0, 4.0 ** (2 * u[6:8] - 1.5))
    of_tier = np.flatnonzero(options.max_lora_rank == tier)
    count, rows, load = _size(u, profile.valid.adapters[1], options.max_loras, of_tier)
    inputs, outputs = (np.full(count, mean) for mean in means * scales)
    shape = _rate_shape(u[1], u[2], count, rng)
    ranks = _ranks(u[8], tier, tiers, count, rng)
    limits = _sustained_rps(options, rows, shape, inputs, outputs)
    slots, limit_rps = int(options.max_loras[rows[np.argmax(limits)]]), float(limits.max())
    rates = np.maximum(shape * limit_rps * load, _LOWEST_RATE_RPS)
    return (
        ServerConfig(
            max_loras=slots,
            max_cpu_loras=max(slots, count),
            max_lora_rank=tier,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
        ),
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


def _size(
    u: np.ndarray, most: int, slots: np.ndarray, of_tier: np.ndarray
) -> tuple[int, np.ndarray, float]:
    """Return adapters, configurations to choose from, and the load as a multiple of theirs."""
    if u[9] < _FEW_SLOTS_SHARE and most >= 3 * _FEWEST_ADAPTERS:
        count = round(float(np.exp(np.interp(u[0], (0, 1), np.log([_FEWEST_ADAPTERS, most])))))
        few = of_tier[slots[of_tier] <= max(count // 3, slots[of_tier].min())]
        low, high = np.log(_FEW_SLOTS_LOAD)
        picked = few[[min(int(u[5] * len(few)), len(few) - 1)]]
        return count, picked, float(np.exp(low + (high - low) * u[3]))
    count = max(1, round(float(most ** u[0])))
    if u[5] < _BEST_SLOTS_SHARE:
        return count, of_tier, _fill_at(u[3])
    given = _slots(u[5], count, np.unique(slots[of_tier]).tolist())
    return count, of_tier[slots[of_tier] == given], _fill_at(u[3])


def _rate_shape(kind: float, skew: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return rates that sum to 1."""
    if kind < 0.45:
        rates = np.exp(rng.normal(0.0, 1.8 * skew, count))
    elif kind < 0.7:
        rates = np.arange(1, count + 1) ** -(1.5 * skew)
    else:
        hot = rng.random(count) < 0.1 + 0.4 * skew
        rates = np.where(hot, rng.choice([4.0, 16.0, 64.0]), 1.0)
    return rates / rates.sum()


def _fill_at(u: float) -> float:
    if u < _BOUNDARY_SHARE:
        low, high = _BOUNDARY
        return low + (high - low) * u / _BOUNDARY_SHARE
    low, high = np.log(_FILL_RANGE)
    return float(np.exp(low + (high - low) * (u - _BOUNDARY_SHARE) / (1 - _BOUNDARY_SHARE)))


def _slots(u: float, count: int, offered: list[int]) -> int:
    """Return the slots: one per adapter in a quarter of the designs, fewer in the others."""
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
    """Return the total rate at which this load fills each configuration in steady state."""
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
