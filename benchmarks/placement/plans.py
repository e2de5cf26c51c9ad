"""Figures of placements: GPUs, bound, baselines, replays under fresh seeds, moves, time."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from benchmarks.placement.figure import Figure, figure
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import relaxed_servers
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import capacity_of, place
from maitre.placement.plan import PlacementPlan
from maitre.placement.remove_server import judged_by_twin
from maitre.placement.replan import replan
from maitre.placement.replicas import as_is, replicated
from maitre.placement.settings import DEFAULT_HEADROOM, PlacementSettings
from maitre.placement.simulate_plan import check_plan
from maitre.twin import ServerProfile

CHECKED_UP_TO = 1_000
FRESH_SEEDS = (1_001, 2_002, 3_003)
KINDS = ("class", "zipf", "lognormal")


def catalogue(profile: ServerProfile, adapters: int, kind: str, seed: int = 0) -> AdapterCatalogue:
    """A catalogue of mean rate near 0.3 requests/s: in classes, by Zipf's law or log-normal."""
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
    """Places a few adapters, so that no figure has the compiler's seconds in it."""
    place(catalogue(profile, 400, "lognormal", seed=1), profile, model=model, check_duration_s=300)


def placement_figures(
    profile: ServerProfile, model: MaxpackModel, size: int, kind: str
) -> list[Figure]:
    """One catalogue placed: time, GPUs, bound, baselines, and what replays and changes show."""
    warmed_up(profile, model)
    adapters, name = catalogue(profile, size, kind), f"{size} adapters, {kind}"
    small = size <= CHECKED_UP_TO
    start = time.perf_counter()
    plan = place(adapters, profile, model=model, check_duration_s=0, baselines=False)
    packed_s = time.perf_counter() - start
    figures = [figure(f"{name}: seconds to pack, without the check", round(packed_s, 2))]
    if not small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model, baselines=False)
        checked_s = time.perf_counter() - start
        figures.append(figure(f"{name}: seconds with a sample checked", round(checked_s, 2)))
    if small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model)
        checked_s = time.perf_counter() - start
        figures.append(figure(f"{name}: seconds with check and baselines", round(checked_s, 2)))
        others = sorted(plan.baselines.values())
        as_full = min(_baselines_as_full(profile, model, adapters).values())
        figures += [
            figure(f"{name}: filled by", plan.evidence["filled_by"]),
            figure(f"{name}: baselines", plan.baselines),
            figure(f"{name}: saved against the best baseline, %",
                    round(100 * (1 - plan.gpus / others[0]), 1)),
            figure(f"{name}: the same, were it filled as far as the twin may judge, %",
                    round(100 * (1 - plan.gpus / as_full), 1)),
            figure(f"{name}: saved against the median baseline, %",
                    round(100 * (1 - plan.gpus / np.median(others)), 1)),
        ]  # fmt: skip
    options_bound = _bounds(profile, adapters)
    figures += [
        figure(f"{name}: GPUs", plan.gpus),
        figure(f"{name}: lower bound (before rounding up)", round(options_bound[0], 2)),
        figure(f"{name}: GPUs / bound", round(plan.gpus / np.ceil(options_bound[0]), 3)),
        figure(f"{name}: GPUs / bound at rates 5 % higher",
                round(plan.gpus / np.ceil(options_bound[1]), 3)),
    ]  # fmt: skip
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
            figure(f"{name}: servers starving at {factor:g}x rates, of {servers}",
                    sum(len(check.starved) for check in checks)),
            figure(f"{name}: servers unhealthy at {factor:g}x rates, of {servers}",
                    sum(len(check.unhealthy) for check in checks)),
        ]  # fmt: skip
    rng = np.random.default_rng(7)
    rates = adapters.rates_rps.copy()
    changed = rng.choice(len(rates), max(1, len(rates) // 20), replace=False)
    rates[changed] *= np.where(rng.random(len(changed)) < 0.5, 2.0, 0.5)
    after = replan(plan, adapters.with_rates(rates), profile, model=model)
    moves = plan.diff(after).moves
    return [
        *figures,
        figure(f"{name}: moves when 5 % of rates change by 2x, % of adapters",
                round(100 * len(moves) / len(rates), 2)),
        figure(f"{name}: GPUs before and after", f"{plan.gpus} -> {after.gpus}"),
    ]  # fmt: skip


def _bounds(profile: ServerProfile, adapters: AdapterCatalogue) -> tuple[float, float]:
    lengths = default_lengths()
    options = ServerOptions.of(profile, lengths)
    factors = (1.0, 1 + DEFAULT_HEADROOM)
    as_told, promised = relaxed_servers(as_is(adapters, lengths), options, factors)
    return as_told, promised


def _baselines_as_full(
    profile: ServerProfile, model: MaxpackModel, adapters: AdapterCatalogue
) -> dict[str, int]:
    """The baselines at the model's risk up to which the twin is asked for the plan.

    Not simulated, so they may be too few.
    """
    lengths, settings = default_lengths(), PlacementSettings()
    capacity = capacity_of(profile, model, settings, lengths)
    demand = replicated(adapters, lengths, capacity, 1 + settings.headroom)
    return baseline_gpus(demand, judged_by_twin(capacity))
