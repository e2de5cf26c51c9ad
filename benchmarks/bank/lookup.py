"""Time and quality of the lookup in a bank of 3,000 prompts.

The bank is made of the prompts of a smaller one: each entry is one of them, mixed with another
(mostly of its own group) and disturbed by noise, so that there are good, middling and useless
starts and many that are nearly as good as the best. A task is looked up in what is left when every
prompt that its own prompts went into is gone. The two layers must find what scoring everything on
the same samples finds. Work is kept in files: run it again, and it goes on where it stopped.
"""

import argparse
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from benchmarks.bank.inputs import HOME, add_input_options, load_model
from benchmarks.report import Figure, Reach, Report, progress
from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry
from maitre.bank.index import BankIndex, build_index
from maitre.files import replacing_file
from maitre.tuning.bank_entries import FEATURE
from maitre.tuning.bank_quality import SAMPLES, WITHIN, lookup_quality, lookup_scorer
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.prompt_scores import PromptScorer, output_distributions
from maitre.tuning.start import find_start
from maitre.tuning.tasks import Task, load_tasks

REACH_SECONDS, REACH_SHARE = 10.0, 0.95
_SAME_GROUP = 0.7
_MOST_OF_THE_OTHER = 0.5
_MOST_NOISE = 0.5
_PIECE = 250
_ROUND = 4


def large_bank(small: PromptBank, entries: int, seed: int) -> PromptBank:
    """Return a bank of `entries` prompts, mixed and disturbed; `task` names both parents."""
    generator = np.random.default_rng(seed)
    parents = list(small)
    made: list[BankEntry] = []
    for number in range(entries):
        first = parents[number % len(parents)]
        others = [p for p in parents if (p.group == first.group) and p is not first]
        if not others or generator.random() > _SAME_GROUP:
            others = [p for p in parents if p is not first]
        second = others[generator.integers(len(others))]
        share = generator.uniform(0, _MOST_OF_THE_OTHER)
        noise = generator.uniform(0, _MOST_NOISE) * float(first.prompt.std())
        prompt = (1 - share) * first.prompt + share * second.prompt
        prompt += noise * generator.normal(size=prompt.shape)
        made.append(
            replace(
                first,
                entry_id=f"{number:04d}",
                task=f"{first.task}|{second.task}",
                prompt=prompt.astype(np.float32),
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                features=(),
            )
        )
    return PromptBank(tuple(made))


def with_features(model: BaseModel, bank: PromptBank, file: Path) -> PromptBank:
    """Return the bank with the feature that clusters it, computed in pieces that are stored."""
    done = [np.load(file)] if file.is_file() else []
    have = sum(map(len, done))
    prompts = bank.prompts()
    for start in range(have, len(bank), _PIECE):
        done.append(output_distributions(model, prompts[start : start + _PIECE], "suffix"))
        kept = np.concatenate(done)
        _keep(file, kept)
        progress(f"features of {len(kept)} of {len(bank)} prompts")
    vectors = np.concatenate(done)
    pairs = zip(bank, vectors, strict=True)
    return PromptBank(tuple(entry.with_feature(FEATURE, vector) for entry, vector in pairs))


def exhaustive(
    model: BaseModel, task: Task, bank: PromptBank, seed: int, file: Path, until_s: float
) -> np.ndarray | None:
    """Return the loss of every prompt on the lookup's samples; `None` where time ran out before.

    A prompt that has lost more on the first samples than the best on all cannot be the best: it is
    given up, and its loss is infinite here. What remains includes the best of all, exactly.
    """
    scorer = lookup_scorer(model, task, bank, seed)
    prompts = bank.prompts()
    found = np.load(file) if file.is_file() else np.zeros(0, dtype=np.float32)
    while len(found) < len(prompts):
        if time.monotonic() > until_s:
            return None
        best = float(found.min(initial=np.inf))
        found = np.concatenate([found, _losses(scorer, prompts[len(found) :][:_PIECE], best)])
        _keep(file, found)
    return found


def _losses(scorer: PromptScorer, prompts: np.ndarray, best: float) -> np.ndarray:
    """Return the prompts' mean losses; infinite for those that cannot be among the best."""
    sums = np.zeros(len(prompts))
    alive = np.arange(len(prompts))
    for first in range(0, SAMPLES, _ROUND):
        samples = range(first, min(first + _ROUND, SAMPLES))
        sums[alive] += scorer(prompts[alive], samples) * len(samples)
        alive = alive[sums[alive] <= best * SAMPLES]
        if not len(alive):
            break
    losses = np.full(len(prompts), np.inf, dtype=np.float32)
    losses[alive] = sums[alive] / SAMPLES
    return losses


def compare(
    model: BaseModel,
    task: Task,
    bank: PromptBank,
    index: BankIndex,
    losses: np.ndarray,
    seed: int,
) -> dict[str, float | str]:
    """Compare the two layers' choice by loss with the best of all; return what the lookup took."""
    found = lookup_quality(
        model,
        task,
        bank,
        index,
        seed=seed,
        clock=time.monotonic,
        budget_s=REACH_SECONDS,
        losses=losses,
    )
    config = TuneConfig(virtual_tokens=bank.entries[0].prompt.shape[0])
    whole = find_start(model, task, bank, index, config=config, seed=seed, budget_s=REACH_SECONDS)
    return {
        **asdict(found),
        "excess": found.excess,
        "find_start_s": whole.seconds,
        "start": whole.choice.name,
    }


def _keep(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file) as unfinished, unfinished.open("wb") as sink:
        np.save(sink, values)


def report(found: list[dict[str, float | str]]) -> Report:
    """Return the figures of the lookups, and each lookup as a detail."""
    excess = np.array([float(one["excess"]) for one in found])
    layers = np.array([float(one["seconds"]) for one in found])
    whole = np.array([float(one["find_start_s"]) for one in found])
    work = np.array(
        [float(one["evaluated"]) / float(one["evaluated_exhaustively"]) for one in found]
    )
    within = float((excess <= WITHIN).mean())
    figures = [
        Figure("tasks", len(found)),
        Figure("threads", torch.get_num_threads()),
        Figure(
            f"share of lookups within {WITHIN:.0%} of the best prompt's loss",
            within,
            "",
            Reach(at_least=REACH_SHARE),
        ),
        Figure("excess loss, median", 100 * float(np.median(excess)), "%"),
        Figure("excess loss, worst", 100 * float(excess.max()), "%"),
        Figure("scored prompts, median share of all", 100 * float(np.median(work)), "%"),
        Figure("two layers, median", float(np.median(layers)), "s"),
        Figure("two layers, worst", float(layers.max()), "s"),
        Figure("find_start, median", float(np.median(whole)), "s"),
        Figure("find_start, worst", float(whole.max()), "s", Reach(at_most=REACH_SECONDS)),
    ]
    return Report(figures, {"lookups": found})


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)
    parser.add_argument("--bank", required=True, help="the small bank: a folder or URL")
    parser.add_argument("--entries", type=int, default=3000)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="score all prompts for at most so long"
    )
    parser.add_argument("--keep", type=Path, default=HOME / "benchmarks/lookup")


def measure(options: argparse.Namespace) -> Report:
    until_s = time.monotonic() + options.seconds
    model = load_model(options)
    folder = options.keep / f"{options.entries}"
    bank = large_bank(PromptBank.load(options.bank), options.entries, options.seed)
    bank = with_features(model, bank, folder / "features.npy")
    tasks = {task.name: task for task in load_tasks(options.tasks)}
    names = sorted(tasks)
    order = np.random.default_rng(0).permutation(len(names))[: options.held_out]
    found: list[dict[str, float | str]] = []
    for name in (names[place] for place in order):
        visible = PromptBank(tuple(e for e in bank if name not in e.task.split("|")))
        file = folder / f"{name}.npy"
        losses = exhaustive(model, tasks[name], visible, options.seed, file, until_s)
        if losses is None:
            continue
        started_s = time.monotonic()
        index = build_index(visible, FEATURE)
        index_s = time.monotonic() - started_s
        one = compare(model, tasks[name], visible, index, losses, options.seed)
        found.append(one | {"prompts": len(visible), "index_s": round(index_s, 1)})
        progress(str(found[-1]))
    if not found:
        sys.exit("time is up; the same command goes on from here")
    return report(found)
