"""Prompts for a bank, tuned from a start that they have in common.

The mean of prompts that were tuned for many tasks is closer to each of them than a random prompt
is: what they share is how to ask for an answer. Tuning the tasks again from that mean is a round of
Reptile (Nichol et al. 2018), and keeps the prompts near each other, so that the mean of the bank
(one of a lookup's candidates) stays a good start for tasks that the bank has not seen.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig, TuneResult
from maitre.tuning.iterate import OnIteration
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune_many

FEWEST_TASKS = 3
"""Fewer prompts than this make no common start."""

MOST_FIRST_TASKS = 12
"""At most this many tasks, evenly spread, are in the first round: a mean needs no more."""


def tune_from_common_start(
    model: BaseModel,
    tasks: Sequence[Task],
    *,
    known: Sequence[np.ndarray] = (),
    first_iterations: int,
    config: TuneConfig,
    seed: int,
    on_iteration: OnIteration | None = None,
) -> list[TuneResult]:
    """Tune every task in one shared batch, from the mean of prompts tuned for other tasks.

    `known` are prompts `[virtual_tokens, hidden]` of further tasks, tuned before. Where `known` has
    fewer than `FEWEST_TASKS`, a first round of `first_iterations` from the cold start of `seed`
    makes the prompts whose mean is taken; where there are many tasks, only some are in that round.
    `config` is that of the second round. With fewer than `FEWEST_TASKS` tasks in all, or no first
    iterations, tuning begins cold. `on_iteration` is called in both rounds.
    Raises `TuningInputError` for what cannot be tuned.
    """
    prompts = list(known)
    if len(prompts) < FEWEST_TASKS <= len(prompts) + len(tasks) and first_iterations:
        some = tasks[:: math.ceil(len(tasks) / MOST_FIRST_TASKS)]
        # Nobody asks how good these prompts are, so next to nothing of the eval split is read.
        brief = replace(config, max_iterations=first_iterations, eval_every=None, eval_rows=1)
        first = tune_many(
            model,
            some,
            inits=[None] * len(some),
            config=brief,
            seeds=[seed] * len(some),
            on_iteration=on_iteration,
        )
        prompts += [result.prompt for result in first]
    start = np.mean(prompts, axis=0) if len(prompts) >= FEWEST_TASKS else None
    return tune_many(
        model,
        tasks,
        inits=[start] * len(tasks),
        config=config,
        seeds=[seed] * len(tasks),
        on_iteration=on_iteration,
    )
