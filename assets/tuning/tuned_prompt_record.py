"""Adds a tuned prompt to the prompt bank."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from assets.tuning.prompt_bank import bank_url, load_bank
from resources.data_home import DataHome

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.tasks import Task


def add_to_bank(
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
    ita_cold: float | None,
    run_id: str,
    tenant: str | None,
    check: Callable[[], None],
) -> None:
    """Add the prompt to the base model's bank, private to `tenant` (None: public).

    `check` raises when another worker holds the run; nothing is added then.
    """
    from maitre.tuning.bank_entries import bank_entry, with_output_features

    entry = bank_entry(
        model,
        task,
        tuned.prompt,
        created_at=datetime.now(UTC),
        eval_loss=tuned.eval_loss,
        eval_accuracy=tuned.eval_accuracy,
        run_id=run_id,
        tenant=tenant,
        ita=tuned.iterations if tuned.reached else None,
        ita_cold=ita_cold,
    )
    bank, _ = load_bank(home, model).add([entry])
    featured = with_output_features(bank, model)
    check()
    featured.save(bank_url(home, model))
