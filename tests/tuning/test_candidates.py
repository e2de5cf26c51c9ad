"""Starts made of the bank's prompts."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.tuning.bank_entries import bank_entry
from maitre.tuning.base_model import BaseModel
from maitre.tuning.candidates import LABELS, label_embedding, mixtures
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Example, Task


def test_a_leader_is_moved_to_the_new_tasks_labels(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    entries = [
        bank_entry(
            tiny,
            replace(colours, name=f"colours{seed}"),
            random_init(tiny, 3, seed),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            eval_loss=1.0,
            eval_accuracy=0.5,
        )
        for seed in range(3)
    ]
    bank = PromptBank(tuple(entries))
    labels = label_embedding(tiny, sizes)
    assert labels is not None
    found = {c.name: c for c in mixtures(bank, entries[:2], labels)}
    first = entries[0]
    moved = found[f"relabelled-2:{first.entry_id}"]
    assert moved.entry == first.entry_id
    shift = moved.prompt - first.prompt
    np.testing.assert_allclose(shift, np.tile(2 * (labels - first.feature(LABELS)), (3, 1)), 1e-4)
    mean = found["mean of the bank"]
    np.testing.assert_allclose(mean.prompt, bank.prompts().mean(0), rtol=1e-5)
    assert mean.entry is None
    assert found["mean of the best two"].entry == first.entry_id


def test_the_same_labels_and_no_labels_change_nothing(tiny: BaseModel, colours: Task) -> None:
    entry = bank_entry(
        tiny,
        colours,
        random_init(tiny, 3, 0),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        eval_loss=1.0,
        eval_accuracy=0.5,
    )
    bank = PromptBank((entry,))
    assert mixtures(bank, [entry], label_embedding(tiny, colours)) == []
    assert mixtures(bank, [entry], None) == []
    assert mixtures(PromptBank(), [], None) == []


def test_a_task_of_free_text_has_no_labels(tiny: BaseModel, colours: Task) -> None:
    free = tuple(Example(f"apple {i}", f"red {i}") for i in range(70))
    assert label_embedding(tiny, replace(colours, train=free)) is None
