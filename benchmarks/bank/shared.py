"""Eight tasks tuned in one shared batch, against one after another."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bank.cpu_time import cpu_seconds
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune, tune_many


def shared(model: BaseModel, tasks: Sequence[Task], config: TuneConfig) -> list[dict]:
    """CPU-seconds of tuning tasks together and one after another."""
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
        print(
            f"{len(tasks)} tasks, {batch_size} rows a step: shared {together[0]:.1f} CPU-s, "
            f"one after another {apart[0]:.1f} CPU-s, {apart[0] / together[0]:.2f}x",
            flush=True,
        )
        figures.append(
            {"tasks": len(tasks), "batch_size": batch_size, "shared_cpu_s": together[0]}
            | {"apart_cpu_s": apart[0], "cheaper": apart[0] / together[0]}
        )
    return figures
