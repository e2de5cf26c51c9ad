"""How well the two-layer lookup does: its choice against the best of scoring everything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex
from maitre.bank.lookup import SAMPLE_ROUNDS, lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.encoding import encode
from maitre.tuning.prompt_scores import PromptScorer
from maitre.tuning.tasks import Task

SAMPLES = SAMPLE_ROUNDS[-1]
WITHIN = 0.02
"""A choice whose loss is at most this share above the best's is as good."""
NO_LIMIT_S = 86_400.0
"""A time budget that is longer than any lookup."""


@dataclass(frozen=True)
class LookupQuality:
    """One task's lookup: the loss of its choice, the best entry's, and the passes each took."""

    task: str
    chosen_loss: float
    best_loss: float
    evaluated: int
    evaluated_exhaustively: int
    seconds: float

    @property
    def excess(self) -> float:
        """By how much the choice is worse, as a share of the best loss."""
        return self.chosen_loss / max(self.best_loss, 1e-9) - 1

    @property
    def is_as_good(self) -> bool:
        """Whether the choice is as good as the best, within `WITHIN`."""
        return self.excess <= WITHIN


def lookup_scorer(model: BaseModel, task: Task, bank: PromptBank, seed: int) -> PromptScorer:
    """Return a scorer on the train examples that a lookup of this seed draws."""
    first = bank.entries[0]
    order = np.random.default_rng(seed).permutation(len(task.train))[:SAMPLES].tolist()
    drawn = encode(model, task, first.prompt.shape[0], train=order, eval=()).train
    return PromptScorer(model, drawn, "prefix" if first.position == "prefix" else "suffix")


def lookup_quality(
    model: BaseModel,
    task: Task,
    bank: PromptBank,
    index: BankIndex,
    *,
    seed: int,
    clock: Callable[[], float],
    budget_s: float = 10.0,
    losses: np.ndarray | None = None,
) -> LookupQuality:
    """Look a task up in a bank that is not empty, and score every entry on the same samples.

    `losses` are those scores, one per entry, where they are known already. An infinite loss says
    only that the entry is not the best.
    """
    count = min(SAMPLES, len(task.train))
    if losses is None:
        losses = lookup_scorer(model, task, bank, seed)(bank.prompts(), range(count))
    by_id = dict(zip((entry.entry_id for entry in bank), losses.tolist(), strict=True))
    started_s = clock()
    scorer = lookup_scorer(model, task, bank, seed)
    found = lookup(bank, index, scorer, count, clock=clock, budget_s=budget_s)
    seconds = clock() - started_s
    chosen_loss = by_id[found.choice.name]
    if not np.isfinite(chosen_loss):
        chosen_loss = float(scorer(found.choice.prompt[None], range(count))[0])
    return LookupQuality(
        task=task.name,
        chosen_loss=chosen_loss,
        best_loss=min(by_id.values()),
        evaluated=found.evaluated,
        evaluated_exhaustively=len(bank) * count,
        seconds=seconds,
    )


def sampled_quality(
    model: BaseModel,
    tasks: Sequence[Task],
    bank: PromptBank,
    build: Callable[[PromptBank], BankIndex],
    *,
    seed: int,
    clock: Callable[[], float],
    most_tasks: int = 3,
    most_entries: int = 256,
) -> list[LookupQuality]:
    """Return the quality of lookups of some tasks, each in a bank of the other tasks' prompts.

    At most `most_entries` entries, drawn by `seed`, stand for the bank. The lookups have no time
    limit: what they choose must not depend on how busy the machine is.
    """
    generator = np.random.default_rng(seed)
    drawn = sorted(generator.permutation(len(bank))[:most_entries])
    sample = [bank.entries[place] for place in drawn]
    found = []
    for place in generator.permutation(len(tasks))[:most_tasks]:
        task = tasks[place]
        others = PromptBank(tuple(entry for entry in sample if entry.task != task.name))
        if len(others):
            index = build(others)
            found.append(
                lookup_quality(
                    model, task, others, index, seed=seed, clock=clock, budget_s=NO_LIMIT_S
                )
            )
    return found
