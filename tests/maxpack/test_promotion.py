"""Which of two models should be champion."""

from dataclasses import replace

import pytest

from maitre.maxpack.promotion import THROUGHPUT_TOLERANCE, is_better
from maitre.maxpack.scores import MaxpackScores

CHAMPION = MaxpackScores(
    rows=100,
    throughput_error=2.0,
    throughput_bias=0.0,
    ttft_error=5.0,
    itl_error=3.0,
    starvation_macro_f1=0.95,
    health_macro_f1=0.95,
    health_brier=0.05,
    starvation_brier=0.05,
)


def test_a_model_is_not_better_than_itself() -> None:
    assert not is_better(CHAMPION, CHAMPION)


@pytest.mark.parametrize(
    ("brier", "throughput_error", "better"),
    [
        (0.04, 2.0, True),
        (0.04, 2.0 * THROUGHPUT_TOLERANCE, True),
        (0.04, 2.0 * THROUGHPUT_TOLERANCE + 0.01, False),
        (0.05, 1.0, False),
        (0.06, 1.0, False),
        (float("nan"), 1.0, False),
        (0.04, float("nan"), False),
    ],
)
def test_the_risk_must_be_closer_and_the_throughput_about_as_good(
    brier: float, throughput_error: float, better: bool
) -> None:
    challenger = replace(CHAMPION, health_brier=brier, throughput_error=throughput_error)
    assert is_better(challenger, CHAMPION) is better


def test_of_two_models_at_most_one_is_better() -> None:
    other = replace(CHAMPION, health_brier=0.04, throughput_error=2.1)
    assert is_better(other, CHAMPION)
    assert not is_better(CHAMPION, other)
