"""Targets ask for more than the labels' frequencies."""

import math

import pytest

from maitre.tuning.target import frequencies_loss, target_loss
from maitre.tuning.tasks import Task


def test_progress_counts_from_the_labels_frequencies(colours: Task) -> None:
    assert frequencies_loss(colours) == pytest.approx(math.log(2))
    curve = [(0, 11.0, 0.0), (2, 0.7, 0.5), (4, 0.2, 0.9), (6, 0.3, 0.9)]
    expected = 0.2 + 0.2 * (math.log(2) - 0.2)
    assert target_loss(colours, curve) == pytest.approx(expected)
    assert target_loss(colours, curve, share=1.0) == pytest.approx(0.2)


def test_a_run_that_learned_nothing_gives_its_own_best_as_target(colours: Task) -> None:
    assert target_loss(colours, [(0, 11.0, 0.0), (2, 0.9, 0.5)]) == pytest.approx(0.9)
