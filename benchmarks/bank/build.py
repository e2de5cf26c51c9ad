"""A prompt bank that has seen none of the held-out tasks, tuned as `bank_prompts` tunes it."""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from assets.tuning.bank_prompts import BankTuneConfig
from benchmarks.bank.inputs import add_input_options, load_model, shuffled_tasks
from benchmarks.report import Figure, Report
from maitre.bank.bank import PromptBank
from maitre.tuning.bank_entries import bank_entry, with_output_features
from maitre.tuning.base_model import BaseModel
from maitre.tuning.common_start import tune_from_common_start
from maitre.tuning.tasks import Task


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)
    parser.add_argument("--bank", required=True, help="folder or URL to write")
    parser.add_argument("--held-out", type=int, default=13, help="how many tasks stay out")


def measure(options: argparse.Namespace) -> Report:
    tasks = shuffled_tasks(options.tasks)[options.held_out :]
    return Report(build(load_model(options), tasks, options.bank))


def build(model: BaseModel, tasks: Sequence[Task], url: str) -> list[Figure]:
    """Tune a prompt for each task, save the bank at `url`, and return what that took."""
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
    return [
        Figure("prompts in the bank", len(bank)),
        Figure("tuning: wall time", time.perf_counter() - began_s, "s"),
        Figure("tuning: CPU time", time.process_time() - began_cpu_s, "s"),
    ]
