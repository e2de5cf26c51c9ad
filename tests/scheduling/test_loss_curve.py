import numpy as np
import pytest

from maitre.scheduling.loss_curve import iterations_to_loss


def curve(at: np.ndarray) -> np.ndarray:
    return 0.5 + 1 / (0.01 * at + 0.4)


def test_a_curve_of_the_form_is_extrapolated() -> None:
    at = np.arange(10, 200, 10)
    truth = (1 / 0.2 - 0.4) / 0.01  # where the curve is 0.7
    assert iterations_to_loss(at, curve(at), 0.7) == pytest.approx(truth, rel=0.1)


def test_noise_does_not_break_it() -> None:
    at = np.arange(10, 400, 5)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(at))
    truth = (1 / 0.2 - 0.4) / 0.01
    assert iterations_to_loss(at, curve(at) + noise, 0.7) == pytest.approx(truth, rel=0.3)


def test_a_target_already_reached_is_where_it_was_reached() -> None:
    assert iterations_to_loss([1, 2, 3], [3.0, 2.0, 1.0], 2.5) == 2


def test_no_answer_where_there_is_none() -> None:
    at = np.arange(10, 200, 10)
    assert iterations_to_loss(at, curve(at), 0.1) is None
    assert iterations_to_loss([1, 2], [3.0, 2.9], 1.0) is None
    assert iterations_to_loss(at, np.ones(len(at)), 0.5) is None
    with pytest.raises(ValueError, match="one loss"):
        iterations_to_loss([1, 2], [1.0], 0.5)
