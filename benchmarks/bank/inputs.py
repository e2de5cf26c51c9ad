"""The base model and the tasks that the benchmarks of the bank work on."""

import argparse
from pathlib import Path

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.tasks import Task, load_tasks

HOME = Path(".maitre")


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the base model, the tasks and the threads."""
    parser.add_argument("--model", default=str(HOME / "models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=HOME / "tasks", help="folder of tasks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def load_model(options: argparse.Namespace) -> BaseModel:
    """Return the base model, on the CPU with as many threads as asked for."""
    torch.set_num_threads(options.threads)
    return BaseModel.load(options.model, device="cpu")


def shuffled_tasks(folder: Path) -> list[Task]:
    """Return the tasks in an order that is fixed beforehand."""
    tasks = load_tasks(folder)
    return [tasks[index] for index in np.random.default_rng(0).permutation(len(tasks)).tolist()]
