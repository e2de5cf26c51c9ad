"""A draft of a task: labelled items, and the split of them into train and eval examples.

An item names the entities it speaks of (a city, a word's stem, a number). Each entity is on the
train side or on the eval side of *every* task, so an eval example speaks of nothing that any
prompt in the bank was tuned on.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from maitre.tuning.tasks import Example, Task, TaskError, normalised

TRAIN_LINES, EVAL_LINES = 192, 256
LEAST_TRAIN_LINES, LEAST_EVAL_LINES = 64, 200
EVAL_SHARE = 0.6
"""Share of the entities on the eval side. Over half, since small worlds (countries) still need
200 eval lines, and soft prompts learn from few."""


@dataclass(frozen=True)
class Item:
    """One question: what is shown, its answer, and the entities that decide its side."""

    prompt: str
    label: str
    entities: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """A task before the split; items may be far more than the task will hold."""

    name: str
    group: str
    description: str
    instruction: str
    items: tuple[Item, ...]


def stem(word: str) -> str:
    """Return the entity of a word: its first five letters, so that inflections go together."""
    return f"word:{normalised(word)[:5]}"


def side(entity: str, seed: int) -> str:
    """Return "eval" or "train": the side of an entity, the same in every task of one seed."""
    digest = hashlib.sha256(f"{seed}:{normalised(entity)}".encode()).digest()
    return "eval" if int.from_bytes(digest[:8]) < EVAL_SHARE * 2**64 else "train"


def split(draft: Draft, seed: int) -> Task:
    """Make the task: items whose entities are all on one side, as balanced as the items allow.

    Prompts that have two answers are dropped. Raises TaskError when a split stays too small.
    """
    rng = random.Random(f"{seed}:{draft.name}")
    sides: dict[str, list[Item]] = {"train": [], "eval": []}
    for item in _unambiguous(draft.items):
        of_item = {side(entity, seed) for entity in item.entities}
        if len(of_item) == 1:
            sides[of_item.pop()].append(item)
    train = _balanced(sides["train"], TRAIN_LINES, rng)
    evaluation = _balanced(sides["eval"], EVAL_LINES, rng)
    if len(train) < LEAST_TRAIN_LINES or len(evaluation) < LEAST_EVAL_LINES:
        raise TaskError(
            f"task {draft.name!r}: {len(train)} train and {len(evaluation)} eval lines; "
            f"it takes {LEAST_TRAIN_LINES} and {LEAST_EVAL_LINES}"
        )
    return Task(
        name=draft.name,
        description=draft.description,
        instruction=draft.instruction,
        metric="accuracy",
        group=draft.group,
        train=train,
        eval=evaluation,
    )


def _unambiguous(items: Iterable[Item]) -> list[Item]:
    labels: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Item] = {}
    for item in items:
        key = normalised(item.prompt)
        labels[key].add(item.label)
        first.setdefault(key, item)
    return [item for key, item in first.items() if len(labels[key]) == 1]


def _balanced(items: list[Item], lines: int, rng: random.Random) -> tuple[Example, ...]:
    by_label: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    chosen: list[Item] = []
    # The smallest label first: what it lacks is shared out among the others.
    for left, label in enumerate(sorted(by_label, key=lambda name: (len(by_label[name]), name))):
        share = (lines - len(chosen)) // (len(by_label) - left)
        pool = by_label[label]
        chosen += rng.sample(pool, min(share, len(pool)))
    rng.shuffle(chosen)
    return tuple(Example(item.prompt, f" {item.label}") for item in chosen)
