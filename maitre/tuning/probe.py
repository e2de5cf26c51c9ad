"""A few steps from each of some starts: how fast each learns says more than how low it begins."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune_many

PROBE_EVAL_ROWS = 32


def probe_losses(
    model: BaseModel,
    task: Task,
    starts: Sequence[np.ndarray],
    *,
    config: TuneConfig,
    iterations: int,
    seed: int,
) -> list[float]:
    """The loss that each start has come to after a few iterations, all in one shared batch.

    Measured on train examples that those iterations do not see (a third of them, at most
    `PROBE_EVAL_ROWS`), so the eval split has no part in the choice; infinite where the loss became
    no number. With fewer than two train examples there is nothing to measure on: all equal.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(task.train)).tolist()
    kept_out = min(PROBE_EVAL_ROWS, len(order) // 3) or len(order) // 2
    if not kept_out:
        return [0.0] * len(starts)
    probing = replace(
        task,
        train=tuple(task.train[index] for index in order[kept_out:]),
        eval=tuple(task.train[index] for index in order[:kept_out]),
        metric="loss",
    )
    results = tune_many(
        model,
        [probing] * len(starts),
        inits=list(starts),
        config=replace(
            config,
            max_iterations=iterations,
            eval_every=None,
            eval_rows=None,
            target_loss=None,
            target_accuracy=None,
        ),
        seeds=[seed] * len(starts),
    )
    return [r.eval_loss if r.stopped_because != "diverged" else float("inf") for r in results]
