"""The lookup's choice against scoring every entry."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex, build_index
from maitre.tuning.bank_entries import FEATURE, bank_entry, with_output_features
from maitre.tuning.bank_quality import LookupQuality, lookup_quality, sampled_quality
from maitre.tuning.base_model import BaseModel
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task


def bank_of(model: BaseModel, tasks: list[Task], count: int) -> PromptBank:
    entries = [
        bank_entry(
            model,
            tasks[seed % len(tasks)],
            random_init(model, 3, seed),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            eval_loss=1.0,
            eval_accuracy=0.5,
        )
        for seed in range(count)
    ]
    return with_output_features(PromptBank(tuple(entries)), model)


def test_a_lookup_that_opens_every_cluster_misses_nothing(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    bank = bank_of(tiny, [sizes], 6)
    index = build_index(bank, FEATURE)
    found = lookup_quality(tiny, colours, bank, index, seed=0, clock=lambda: 0.0)
    assert found.chosen_loss == found.best_loss
    assert found.is_as_good
    assert found.evaluated <= found.evaluated_exhaustively


def test_known_losses_are_not_computed_again(tiny: BaseModel, colours: Task, sizes: Task) -> None:
    bank = bank_of(tiny, [sizes], 4)
    index = build_index(bank, FEATURE)
    losses = np.array([3.0, 3.0, 3.0, 3.0], dtype=np.float32)
    found = lookup_quality(tiny, colours, bank, index, seed=0, clock=lambda: 0.0, losses=losses)
    assert (found.chosen_loss, found.best_loss) == (3.0, 3.0)


def test_a_choice_that_was_given_up_as_the_best_is_scored_now(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    bank = bank_of(tiny, [sizes], 4)
    index = build_index(bank, FEATURE)
    whole = lookup_quality(tiny, colours, bank, index, seed=0, clock=lambda: 0.0)
    losses = np.full(4, np.inf, dtype=np.float32)
    found = lookup_quality(tiny, colours, bank, index, seed=0, clock=lambda: 0.0, losses=losses)
    assert found.chosen_loss == pytest.approx(whole.chosen_loss, rel=1e-4)


def test_a_task_is_looked_up_in_what_others_made(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    bank = bank_of(tiny, [colours, sizes], 8)
    seen: list[set[str]] = []

    def build(others: PromptBank) -> BankIndex:
        seen.append({entry.task for entry in others})
        return build_index(others, FEATURE)

    found = sampled_quality(
        tiny, [colours, sizes], bank, build, seed=0, clock=lambda: 0.0, most_entries=6
    )
    assert {one.task for one in found} == {"colours", "sizes"}
    assert seen == [{"sizes" if one.task == "colours" else "colours"} for one in found]


def test_a_busy_machine_does_not_change_what_the_sampled_lookups_choose(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    bank = bank_of(tiny, [colours, sizes], 12)

    def sampled(clock: Callable[[], float]) -> list[tuple[str, float, int]]:
        found = sampled_quality(
            tiny, [colours, sizes], bank, lambda b: build_index(b, FEATURE), seed=0, clock=clock
        )
        return [(one.task, one.chosen_loss, one.evaluated) for one in found]

    # Each look at the clock is longer than a lookup's budget.
    ticks = itertools.count(0.0, 11.0)
    assert sampled(lambda: next(ticks)) == sampled(lambda: 0.0)


def test_what_is_as_good() -> None:
    def excess(chosen: float) -> LookupQuality:
        return LookupQuality("t", chosen, 1.0, 1, 2, 0.1)

    assert excess(1.019).is_as_good
    assert not excess(1.03).is_as_good
