"""Changed plans against fresh ones: GPUs, failing servers and moves over random changes.

A running plan of each profile is changed for random catalogues: all rates multiplied by 0.1 to 3,
each rate by a factor of its own, ranks raised or lowered, adapters gone and new ones, and all of
that together. Every changed plan may move as many adapters as there are, and is checked in the twin
like a fresh plan for the same catalogue.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import Figure, Reach, Report, progress
from maitre.maxpack.model import MaxpackModel
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.placement.replan import MoveBudget, replan_and_check
from maitre.placement.settings import PlacementSettings
from maitre.twin import ServerProfile

PROFILES = ("h100-64gb/llama-3.1-8b-instruct", "h100-64gb/qwen-2.5-7b-instruct")
KINDS = ("scaled", "shifted", "ranks", "arrivals", "all")
RANKS = np.array([8, 16, 32])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--changes", type=int, default=200, help="random changes per profile")
    parser.add_argument("--first", type=int, default=0, help="number of the first change")
    parser.add_argument("--adapters", type=int, default=300)
    parser.add_argument("--profiles", nargs="*", default=list(PROFILES))
    parser.add_argument("--models", nargs="*", type=Path, help="a capacity model per profile")
    parser.add_argument("--check", type=float, default=3_600.0, help="simulated seconds")
    parser.add_argument("--seed", type=int, default=0)


@dataclass(frozen=True)
class Outcome:
    """One change: GPUs before, of the changed plan and of a fresh one, and how it was changed."""

    profile: str
    number: int
    kind: str
    before: int
    changed: int
    fresh: int
    failing: int
    moves: int
    adapters: int
    replan_s: float
    fresh_s: float


def measure(options: argparse.Namespace) -> Report:
    outcomes = []
    models = {model.card.profile: model for model in map(MaxpackModel.load, options.models or ())}
    settings = PlacementSettings(check_duration_s=options.check, baselines=False)
    for name in options.profiles:
        profile, model = ServerProfile.load(name), models.get(name)
        base = base_catalogue(profile, options.adapters, options.seed)
        running = place(base, profile, model=model, check_duration_s=options.check, baselines=False)
        for number in range(options.first, options.first + options.changes):
            kind = KINDS[number % len(KINDS)]
            rng = np.random.default_rng([options.seed, number])
            changed = change(base, kind, rng)
            found = outcome(running, changed, profile, model, settings, number, kind)
            outcomes.append(found)
            progress(
                f"{name} {number} {kind}: {found.before} -> {found.changed} GPUs, fresh "
                f"{found.fresh}, {found.failing} failing, {found.moves} moves, "
                f"{found.replan_s:.1f} s (fresh {found.fresh_s:.1f} s)"
            )
    return Report(figures(outcomes), {"outcomes": [asdict(found) for found in outcomes]})


def base_catalogue(profile: ServerProfile, adapters: int, seed: int) -> AdapterCatalogue:
    """Return adapters of log-normal rates and three ranks."""
    rng = np.random.default_rng([seed, adapters])
    frame = pd.DataFrame(
        {
            "adapter": [f"a{i}" for i in range(adapters)],
            "base_model": profile.base_model,
            "rank": rng.choice(RANKS, adapters, p=[0.5, 0.35, 0.15]),
            "rate_rps": np.exp(rng.normal(np.log(0.12), 1.2, adapters)).clip(0.001, 8),
        }
    )
    return AdapterCatalogue.from_frame(frame)


def change(base: AdapterCatalogue, kind: str, rng: np.random.Generator) -> AdapterCatalogue:
    """Return a random change of the base catalogue."""
    frame = base.frame()
    if kind in ("scaled", "all"):
        frame["rate_rps"] *= np.exp(rng.uniform(np.log(0.1), np.log(3.0)))
    if kind in ("shifted", "all"):
        frame["rate_rps"] *= np.exp(rng.uniform(np.log(0.1), np.log(3.0), len(frame)))
    if kind in ("ranks", "all"):
        some = rng.random(len(frame)) < rng.uniform(0.0, 0.1)
        frame.loc[some, "rank"] = rng.choice(RANKS, int(some.sum()))
    if kind in ("arrivals", "all"):
        frame = frame[rng.random(len(frame)) >= rng.uniform(0.0, 0.5)]
        new = frame.sample(frac=rng.uniform(0.0, 0.5), random_state=int(rng.integers(1 << 31)))
        frame = pd.concat([frame, new.assign(adapter="new-" + new["adapter"])], ignore_index=True)
    return AdapterCatalogue.from_frame(frame)


def outcome(
    running: PlacementPlan,
    changed: AdapterCatalogue,
    profile: ServerProfile,
    model: MaxpackModel | None,
    settings: PlacementSettings,
    number: int,
    kind: str,
) -> Outcome:
    """Change the running plan, and make a fresh one to compare it with."""
    budget = MoveBudget(len(changed), len(changed))
    start = time.perf_counter()
    after = replan_and_check(running, changed, profile, settings, budget, model=model)
    replan_s = time.perf_counter() - start
    start = time.perf_counter()
    fresh = place(
        changed, profile, model=model, check_duration_s=settings.check_duration_s, baselines=False
    )
    fresh_s = time.perf_counter() - start
    return Outcome(
        profile.name,
        number,
        kind,
        running.gpus,
        after.gpus,
        fresh.gpus,
        len(after.evidence.servers_failed or {}),
        len(running.diff(after).moves),
        len(changed),
        replan_s,
        fresh_s,
    )


def figures(outcomes: list[Outcome]) -> list[Figure]:
    """Return GPUs of changed and fresh plans, failing servers and moves, beside their reach."""
    above = np.array([found.changed - found.fresh for found in outcomes])
    moved = np.array([100 * found.moves / found.adapters for found in outcomes])
    return [
        Figure("changes", len(outcomes)),
        Figure("GPUs of changed plans", sum(found.changed for found in outcomes), "GPUs"),
        Figure("GPUs of fresh plans", sum(found.fresh for found in outcomes), "GPUs"),
        Figure("most GPUs above a fresh plan", int(above.max()), "GPUs", Reach(at_most=1)),
        Figure(
            "changes without a GPU above the fresh plan",
            round(100 * float((above <= 0).mean()), 1),
            "%",
            Reach(at_least=80),
        ),
        Figure("failing servers", sum(found.failing for found in outcomes), "", Reach(at_most=0)),
        Figure(
            "changes with more moves than the budget",
            sum(found.moves > found.adapters for found in outcomes),
            "",
            Reach(at_most=0),
        ),
        Figure("adapters that move, median", round(float(np.median(moved)), 1), "%"),
        Figure("adapters that move, most", round(float(moved.max()), 1), "%"),
    ]
