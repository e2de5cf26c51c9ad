"""Eight tasks tuned in one shared batch, against one after another."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bank.cpu_time import cpu_seconds
from benchmarks.bank.inputs import add_input_options, load_model, shuffled_tasks
from benchmarks.report import Figure, Report, progress
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune, tune_many

TASKS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    add_input_options(parser)


def measure(options: argparse.Namespace) -> Report:
    tasks = shuffled_tasks(options.tasks)[:TASKS]
    return Report(shared(load_model(options), tasks, TuneConfig()))


def shared(model: BaseModel, tasks: Sequence[Task], config: TuneConfig) -> list[Figure]:
    """Return the CPU time of tuning tasks together and one after another, by batch size."""
    figures = []
    for batch_size in (2, 4, 16):
        settings = replace(config, batch_size=batch_size, max_iterations=10, eval_every=None)
        settings = replace(settings, eval_rows=16)
        none = [None] * len(tasks)
        with cpu_seconds() as together:
            tune_many(model, tasks, inits=none, config=settings, seeds=range(len(tasks)))
        with cpu_seconds() as apart:
            for seed, task in enumerate(tasks):
                tune(model, task, init=None, config=settings, seed=seed)
        case = f"{len(tasks)} tasks, {batch_size} rows per step"
        figures += [
            Figure(f"{case}: shared batch", together[0], "CPU-s"),
            Figure(f"{case}: one after another", apart[0], "CPU-s"),
            Figure(f"{case}: one after another / shared", apart[0] / together[0]),
        ]
        progress(f"{case}: {apart[0] / together[0]:.2f}")
    return figures
