"""A tuning run beside a cold one: what a start from the bank saves, measured on one task."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig, TuneResult
from maitre.tuning.target import target_loss
from maitre.tuning.tasks import Task
from maitre.tuning.tune import OnIteration, tune


@dataclass(frozen=True)
class ColdComparison:
    """Three runs of one task.

    `reference` (cold, another seed) fixes `target_loss` beforehand. `cold` and `warm` run to that
    loss under one seed, so that they see the same batches.
    """

    target_loss: float
    reference: TuneResult
    cold: TuneResult
    warm: TuneResult

    @property
    def iterations_saved(self) -> float:
        """Cold iterations over warm ones; a cold run that missed the target counts as it ended."""
        return self.cold.iterations / max(self.warm.iterations, 1)


def compare_with_cold(
    model: BaseModel,
    task: Task,
    start: Callable[[], np.ndarray],
    *,
    config: TuneConfig,
    seed: int,
    on_iteration: OnIteration | None = None,
) -> ColdComparison:
    """Fix a target with a cold run of `seed + 1`, then tune to it cold and from `start()`."""

    def run(init: np.ndarray | None, run_seed: int, run_config: TuneConfig) -> TuneResult:
        return tune(
            model, task, init=init, config=run_config, seed=run_seed, on_iteration=on_iteration
        )

    reference = run(None, seed + 1, replace(config, target_loss=None, target_accuracy=None))
    target = target_loss(task, reference.curve)
    to_target = replace(config, target_loss=target, target_accuracy=None)
    cold = run(None, seed, to_target)
    warm = run(start(), seed, to_target)
    return ColdComparison(target, reference, cold, warm)
