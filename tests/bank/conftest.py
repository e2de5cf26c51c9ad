"""Entries made of random numbers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from maitre.bank.bank import PromptBank, mean_embeddings
from maitre.bank.entry import BankEntry

MakeEntry = Callable[..., BankEntry]


def entry(name: str = "a", seed: int | None = None, **facts: Any) -> BankEntry:
    """An entry whose prompt follows from `seed` (by default from its name)."""
    generator = np.random.default_rng(sum(name.encode()) if seed is None else seed)
    known: dict[str, Any] = {
        "entry_id": name,
        "prompt": generator.normal(size=(2, 6)).astype(np.float32),
        "task": f"task-{name}",
        "description": "what it does",
        "base_model": "tiny",
        "base_model_hash": "m" * 64,
        "tokenizer_hash": "t" * 64,
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return BankEntry(**(known | facts))


@pytest.fixture
def make() -> MakeEntry:
    return entry


@pytest.fixture
def clustered() -> PromptBank:
    """40 prompts in 5 clear clusters, with their mean embeddings as a feature."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(5, 2, 6)) * 3
    entries = [
        entry(
            f"c{cluster}-{number}",
            prompt=(centre + 0.2 * generator.normal(size=(2, 6))).astype(np.float32),
            group=f"g{cluster}",
        )
        for cluster, centre in enumerate(centres)
        for number in range(8)
    ]
    return PromptBank(tuple(entries)).with_features("mean", mean_embeddings)
