"""Makes entries of the bank out of tuned prompts."""

from datetime import datetime

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry, entry_id
from maitre.tuning.base_model import BaseModel
from maitre.tuning.candidates import LABELS, label_embedding
from maitre.tuning.config import Position
from maitre.tuning.prompt_scores import output_distributions
from maitre.tuning.tasks import Task

# The feature that clusters the bank: what a prompt makes the model answer to fixed probes.
FEATURE = "output_distribution"


def bank_entry(
    model: BaseModel,
    task: Task,
    prompt: np.ndarray,
    *,
    created_at: datetime,
    eval_loss: float,
    eval_accuracy: float,
    position: Position = "suffix",
    run_id: str | None = None,
    tenant: str | None = None,
    ita: float | None = None,
    ita_cold: float | None = None,
) -> BankEntry:
    """Return an entry for a prompt tuned for `task`; `run_id` is its tracking run."""
    entry = BankEntry(
        entry_id=entry_id(task.name, prompt, tenant),
        prompt=np.ascontiguousarray(prompt, dtype=np.float32),
        task=task.name,
        description=task.description,
        base_model=model.name,
        base_model_hash=model.hash,
        tokenizer_hash=model.tokenizer_hash,
        created_at=created_at,
        group=task.group,
        tenant=tenant,
        run_id=run_id,
        ita=ita,
        ita_cold=ita_cold,
        eval_loss=eval_loss,
        eval_accuracy=eval_accuracy,
        position=position,
    )
    labels = label_embedding(model, task)
    return entry if labels is None else entry.with_feature(LABELS, labels)


def with_output_features(bank: PromptBank, model: BaseModel) -> PromptBank:
    """Return the bank with `FEATURE` for every entry; compute it only where it is missing."""
    positions = {entry.position for entry in bank}
    position: Position = "prefix" if positions == {"prefix"} else "suffix"
    return bank.with_features(
        FEATURE, lambda prompts: output_distributions(model, prompts, position)
    )
