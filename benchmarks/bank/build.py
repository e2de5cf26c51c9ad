"""A bank of some tasks, tuned as the asset `bank_prompts` tunes them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from assets.tuning.bank_prompts import BankTuneConfig
from maitre.bank.bank import PromptBank
from maitre.tuning.bank_entries import bank_entry, with_output_features
from maitre.tuning.base_model import BaseModel
from maitre.tuning.common_start import tune_from_common_start
from maitre.tuning.tasks import Task


def build(model: BaseModel, tasks: Sequence[Task], url: str) -> dict[str, float]:
    """Tune a prompt for each task, save the bank at `url`, and say what that took."""
    settings = BankTuneConfig()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    results = tune_from_common_start(
        model,
        tasks,
        first_iterations=settings.first_iterations,
        config=settings.tune_config(),
        seed=settings.seed,
    )
    entries = [
        bank_entry(
            model,
            task,
            result.prompt,
            created_at=datetime.now(UTC),
            eval_loss=result.eval_loss,
            eval_accuracy=result.eval_accuracy,
        )
        for task, result in zip(tasks, results, strict=True)
    ]
    bank, _ = PromptBank().add(entries)
    with_output_features(bank, model).save(url)
    figures = {
        "prompts": len(bank),
        "seconds": time.perf_counter() - began_s,
        "cpu_seconds": time.process_time() - began_cpu_s,
    }
    print(", ".join(f"{name} {value:.0f}" for name, value in figures.items()))
    return figures
