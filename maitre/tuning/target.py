"""Fixes a tuning target beforehand: how good a task can get, judged by a run of another seed."""

import math
from collections import Counter
from collections.abc import Sequence

from maitre.tuning.config import CurvePoint
from maitre.tuning.tasks import Task

TARGET_SHARE = 0.8
"""The part of what there is to learn beyond the labels' frequencies that counts as learned."""


def target_loss(task: Task, curve: Sequence[CurvePoint], share: float = TARGET_SHARE) -> float:
    """Return the eval loss at which `share` of the reference run's real progress is made.

    Progress counts from the loss of a model that knows only how often each completion occurs, or
    from the curve's first loss where that is lower. A tuning run reaches the former within a few
    iterations from any start. A target measured from the first loss alone would be met by any
    prompt that merely answers in the task's words.
    """
    losses = [loss for _, loss, _ in curve]
    begin = min(losses[0], frequencies_loss(task))
    return min(losses) + (1 - share) * max(0.0, begin - min(losses))


def frequencies_loss(task: Task) -> float:
    """Return the entropy (nats) of the completions of the eval split."""
    counts = Counter(example.completion for example in task.eval)
    total = len(task.eval)
    return -sum(count / total * math.log(count / total) for count in counts.values())
