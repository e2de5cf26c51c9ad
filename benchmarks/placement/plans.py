"""Figures of placements: GPUs, bound, baselines, replays under fresh seeds, moves, time."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from benchmarks.report import Figure
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import relaxed_servers
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import capacity_of, place
from maitre.placement.plan import PlacementPlan
from maitre.placement.promise import DEFAULT_HEADROOM, Promise
from maitre.placement.remove_server import judged_by_twin
from maitre.placement.replan import replan
from maitre.placement.replicas import as_is, replicated
from maitre.placement.simulate_plan import check_plan
from maitre.twin import ServerProfile

CHECKED_UP_TO = 1_000
FRESH_SEEDS = (1_001, 2_002, 3_003)
KINDS = ("class", "zipf", "lognormal")


def catalogue(profile: ServerProfile, adapters: int, kind: str, seed: int = 0) -> AdapterCatalogue:
    """Return a catalogue of about 0.3 requests/s: in classes, by Zipf's law or log-normal."""
    rng = np.random.default_rng([seed, adapters])
    if kind == "class":
        rates = rng.choice([0.025, 0.1, 0.4, 1.6], adapters, p=[0.4, 0.3, 0.2, 0.1])
    elif kind == "zipf":
        rates = np.arange(1, adapters + 1) ** -0.9
        rates = rng.permutation(rates * 0.3 * adapters / rates.sum())
    else:
        rates = np.exp(rng.normal(np.log(0.12), 1.4, adapters)).clip(0.001, 10)
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(adapters)],
                "base_model": profile.base_model,
                "rank": rng.choice([8, 16, 32], adapters, p=[0.5, 0.35, 0.15]),
                "rate_rps": rates,
            }
        ),
        source=f"{adapters} {kind}",
    )


def warmed_up(profile: ServerProfile, model: MaxpackModel) -> None:
    """Place a few adapters, so that no figure has the compiler's seconds in it."""
    place(catalogue(profile, 400, "lognormal", seed=1), profile, model=model, check_duration_s=300)


def placement_figures(
    profile: ServerProfile, model: MaxpackModel, size: int, kind: str
) -> list[Figure]:
    """Place one catalogue; return time, GPUs, bound, baselines, and what replays show."""
    warmed_up(profile, model)
    adapters, name = catalogue(profile, size, kind), f"{size} adapters, {kind}"
    small = size <= CHECKED_UP_TO
    start = time.perf_counter()
    plan = place(adapters, profile, model=model, check_duration_s=0, baselines=False)
    packed_s = time.perf_counter() - start
    figures = [Figure(f"{name}: packing, without the check", round(packed_s, 2), "s")]
    if not small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model, baselines=False)
        checked_s = time.perf_counter() - start
        figures.append(Figure(f"{name}: with a sample checked", round(checked_s, 2), "s"))
    if small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model)
        checked_s = time.perf_counter() - start
        figures.append(Figure(f"{name}: with check and baselines", round(checked_s, 2), "s"))
        others = sorted(plan.baselines.values())
        as_full = min(_baselines_as_full(profile, model, adapters).values())
        figures += [
            Figure(f"{name}: filled by", str(plan.evidence.filled_by)),
            *(
                Figure(f"{name}: baseline {baseline}", gpus, "GPUs")
                for baseline, gpus in plan.baselines.items()
            ),
            Figure(f"{name}: saved against the best baseline", _saved(plan.gpus, others[0]), "%"),
            Figure(
                f"{name}: the same, were it filled as far as the twin may judge",
                _saved(plan.gpus, as_full),
                "%",
            ),
            Figure(
                f"{name}: saved against the median baseline",
                _saved(plan.gpus, float(np.median(others))),
                "%",
            ),
        ]
    bound, bound_at_promise = _bounds(profile, adapters)
    figures += [
        Figure(f"{name}: placed on", plan.gpus, "GPUs"),
        Figure(f"{name}: lower bound (before rounding up)", round(bound, 2), "GPUs"),
        Figure(f"{name}: GPUs / bound", round(plan.gpus / np.ceil(bound), 3)),
        Figure(
            f"{name}: GPUs / bound at rates 5 % higher",
            round(plan.gpus / np.ceil(bound_at_promise), 3),
        ),
    ]
    if small:
        figures += replay_figures(profile, model, adapters, plan, name)
    return figures


def replay_figures(
    profile: ServerProfile,
    model: MaxpackModel,
    adapters: AdapterCatalogue,
    plan: PlacementPlan,
    name: str,
) -> list[Figure]:
    figures = []
    for factor in (1.0, 1.05):
        checks = [
            check_plan(plan, profile, adapters, seed, rate_factor=factor) for seed in FRESH_SEEDS
        ]
        servers = plan.gpus * len(checks)
        figures += [
            Figure(
                f"{name}: servers starving at {factor:g}x rates, of {servers}",
                sum(len(check.starved) for check in checks),
            ),
            Figure(
                f"{name}: servers unhealthy at {factor:g}x rates, of {servers}",
                sum(len(check.unhealthy) for check in checks),
            ),
        ]
    rng = np.random.default_rng(7)
    rates = adapters.rates_rps.copy()
    changed = rng.choice(len(rates), max(1, len(rates) // 20), replace=False)
    rates[changed] *= np.where(rng.random(len(changed)) < 0.5, 2.0, 0.5)
    after = replan(plan, adapters.with_rates(rates), profile, model=model)
    moves = plan.diff(after).moves
    return [
        *figures,
        Figure(
            f"{name}: adapters moved when 5 % of rates change by 2x",
            round(100 * len(moves) / len(rates), 2),
            "%",
        ),
        Figure(f"{name}: before and after", f"{plan.gpus} -> {after.gpus}", "GPUs"),
    ]


def _saved(gpus: int, others: float) -> float:
    """Return how many GPUs of the others are saved, percent."""
    return round(100 * (1 - gpus / others), 1)


def _bounds(profile: ServerProfile, adapters: AdapterCatalogue) -> tuple[float, float]:
    lengths = default_lengths()
    options = ServerOptions.of(profile, lengths)
    factors = (1.0, 1 + DEFAULT_HEADROOM)
    at_given_rates, at_promise = relaxed_servers(as_is(adapters, lengths), options, factors)
    return at_given_rates, at_promise


def _baselines_as_full(
    profile: ServerProfile, model: MaxpackModel, adapters: AdapterCatalogue
) -> dict[str, int]:
    """Return the baselines, filled to the risk up to which the twin judges the plan's servers.

    They are not simulated, so they may be too few.
    """
    lengths, promise = default_lengths(), Promise()
    capacity = capacity_of(profile, model, promise, lengths)
    demand = replicated(adapters, lengths, capacity, promise.rate_factor)
    return baseline_gpus(demand, judged_by_twin(capacity))
