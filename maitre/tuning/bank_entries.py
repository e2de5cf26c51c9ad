"""Makes entries of the bank out of tuned prompts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.entries import BankEntry
from maitre.tuning.base_model import BaseModel
from maitre.tuning.features import prompt_features


def empty_bank(model: BaseModel) -> PromptBank:
    """A bank for prompts of `model`."""
    return PromptBank(model.hash, model.tokenizer_hash)


def entries_of(
    model: BaseModel,
    results: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, np.ndarray],
    *,
    created_at: datetime,
    mlflow_run_id: str | None = None,
) -> list[BankEntry]:
    """Entries for tuned prompts, one a task, with their features computed.

    `results` has a row a task: `task`, `eval_loss`, and where known `group`, `description`, `ita`,
    `ita_cold`. The task's name is the entry's id, so that a task tuned again takes its old place.
    """
    names = [row["task"] for row in results]
    features = prompt_features(model, np.stack([prompts[name] for name in names]))
    return [
        BankEntry(
            entry_id=row["task"],
            prompt=np.ascontiguousarray(prompts[row["task"]], dtype=np.float32),
            features=np.ascontiguousarray(vector),
            base_model=model.name,
            base_model_hash=model.hash,
            tokenizer_hash=model.tokenizer_hash,
            task=row["task"],
            description=row.get("description") or "",
            created_at=created_at,
            group=row.get("group") or None,
            mlflow_run_id=mlflow_run_id,
            eval_loss=row.get("eval_loss"),
            ita=row.get("ita"),
            ita_cold=row.get("ita_cold"),
        )
        for row, vector in zip(results, features, strict=True)
    ]
