"""Iterations and seconds to a target, by start: cold, from the task's words, from the bank."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.bank.inputs import HOME, add_input_options, load_model, shuffled_tasks
from benchmarks.bank.starts import COMPARED, STARTS, Bench, Measured, TimeIsUpError, compare_all
from benchmarks.bank.starts_report import report
from benchmarks.report import Report
from maitre.bank.bank import PromptBank
from maitre.tuning.bank_entries import with_output_features
from maitre.tuning.chosen_start import as_of_bank
from maitre.tuning.config import TuneConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)
    parser.add_argument("--bank", help="folder or URL; default: the data home's")
    parser.add_argument("--work", type=Path, default=HOME / "benchmarks/bank_starts.jsonl")
    parser.add_argument("--held-out", type=int, default=12, help="tasks that count")
    parser.add_argument("--only", nargs="*", metavar="TASK", help="these tasks only")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--max-iterations", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=TuneConfig().learning_rate)
    parser.add_argument("--timed-seeds", type=int, default=1, help="seeds that run alone, timed")
    parser.add_argument("--eval-rows", type=int, default=200)
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after so many minutes"
    )
    parser.add_argument(
        "--lookups-again", action="store_true", help="repeat lookups that --work holds already"
    )


def measure(options: argparse.Namespace) -> Report:
    model = load_model(options)
    url = options.bank or str(HOME / "bank" / model.hash[:12])
    bank = with_output_features(PromptBank.load(url), model)
    config = TuneConfig(
        max_iterations=options.max_iterations,
        learning_rate=options.learning_rate,
        eval_rows=options.eval_rows,
    )
    bench = Bench(
        model,
        bank,
        as_of_bank(config, bank),
        Measured(options.work),
        options.lookups_again,
        time.perf_counter() + 60 * options.minutes,
    )
    tasks = shuffled_tasks(options.tasks)
    if options.only:
        tasks = [task for task in tasks if task.name in options.only]
    try:
        found, not_learned = compare_all(
            bench, tasks, options.held_out, options.starts, options.seeds, options.timed_seeds
        )
    except TimeIsUpError:
        sys.exit("time is up; the same command goes on from here")
    if not found:
        sys.exit("no task counts: the reference run learned none of them")
    if not set(COMPARED) <= set(options.starts):
        sys.exit(0)  # One piece of the work; there is nothing to compare yet.
    return report(found, options.max_iterations, not_learned)
