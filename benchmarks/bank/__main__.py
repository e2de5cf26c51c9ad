"""Command line: `python -m benchmarks bank steps|shared|build|starts`."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.bank.build import build
from benchmarks.bank.shared import shared
from benchmarks.bank.starts import COMPARED, STARTS, Bench, Measured, TimeIsUpError, compare_all
from benchmarks.bank.starts_report import print_report, report
from benchmarks.bank.steps import steps
from maitre.bank.bank import PromptBank
from maitre.tuning.bank_entries import with_output_features
from maitre.tuning.base_model import BaseModel
from maitre.tuning.chosen_start import as_of_bank
from maitre.tuning.config import TuneConfig
from maitre.tuning.tasks import Task, load_tasks

HOME = Path(".maitre")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks bank")
    parser.add_argument("--model", default=str(HOME / "models/smollm2-135m-instruct"))
    parser.add_argument("--task-folder", type=Path, default=HOME / "tasks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    whats = parser.add_subparsers(dest="what", required=True)
    step = whats.add_parser("steps", help="a step against peft's on the same rows")
    step.add_argument("--rows", type=int, default=16)
    step.add_argument("--virtual-tokens", type=int, default=TuneConfig().virtual_tokens)
    whats.add_parser("shared", help="tasks in one shared batch against one after another")
    build = whats.add_parser("build", help="a bank that has seen none of the held-out tasks")
    build.add_argument("--bank", required=True, help="folder or URL to write")
    build.add_argument("--held-out", type=int, default=13, help="tasks that stay out, see starts")
    start = whats.add_parser("starts", help="iterations and seconds to a target, by start")
    start.add_argument("--bank", help="folder or URL; default: the data home's")
    start.add_argument("--work", type=Path, default=HOME / "benchmarks/bank_starts.jsonl")
    start.add_argument("--held-out", type=int, default=12, help="tasks that count")
    start.add_argument("--tasks", nargs="*", help="these tasks only")
    start.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    start.add_argument("--max-iterations", type=int, default=40)
    start.add_argument("--learning-rate", type=float, default=TuneConfig().learning_rate)
    start.add_argument("--timed-seeds", type=int, default=1, help="seeds that run alone, timed")
    start.add_argument("--eval-rows", type=int, default=200)
    start.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    start.add_argument("--minutes", type=float, default=float("inf"), help="begin no run later")
    start.add_argument("--lookups-again", action="store_true", help="look up what is kept, too")
    return parser


def _starts(model: BaseModel, options: argparse.Namespace) -> dict:
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
    tasks = _shuffled(load_tasks(options.task_folder))
    if options.tasks:
        tasks = [task for task in tasks if task.name in options.tasks]
    try:
        found, passed_over = compare_all(
            bench, tasks, options.held_out, options.starts, options.seeds, options.timed_seeds
        )
    except TimeIsUpError:
        sys.exit("time is up; the same command goes on from here")
    if not found:
        sys.exit("no task counts")
    if not set(COMPARED) <= set(options.starts):
        sys.exit(0)  # a piece of the work; there is nothing to compare yet
    figures = report(found, options.max_iterations) | {"not_learned": passed_over}
    print_report(figures)
    return figures


def _shuffled(tasks: list[Task]) -> list[Task]:
    """In an order that is fixed beforehand."""
    return [tasks[index] for index in np.random.default_rng(0).permutation(len(tasks)).tolist()]


def main() -> None:
    """Measure what was asked for."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    model = BaseModel.load(options.model, device="cpu")
    if options.what == "steps":
        figures: object = steps(model, options.rows, options.virtual_tokens)
    elif options.what == "build":
        tasks = _shuffled(load_tasks(options.task_folder))[options.held_out :]
        figures = build(model, tasks, options.bank)
    elif options.what == "shared":
        figures = shared(model, _shuffled(load_tasks(options.task_folder))[:8], TuneConfig())
    else:
        figures = _starts(model, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
