"""The predictor of iterations: sane as shipped, drawn towards what a bank has seen."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.bank.ita import SHIPPED, StartRecord

LOSSES = st.floats(0.0, 20.0)


@given(LOSSES, LOSSES, st.floats(0.0, 5.0), st.floats(0.01, 5.0))
def test_what_is_better_after_probing_is_predicted_to_need_less(
    start: float, probed: float, entropy: float, more: float
) -> None:
    low = SHIPPED.predict(start, probed, entropy)
    assert 0 <= low <= SHIPPED.predict(start, probed + more, entropy)
    assert (
        0 <= SHIPPED.predict(start, None, entropy) <= SHIPPED.predict(start + more, None, entropy)
    )


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_start_without_a_loss_is_the_last_choice(loss: float) -> None:
    assert SHIPPED.predict(loss, None, 1.0) == math.inf
    assert SHIPPED.predict(1.0, loss, 1.0) == math.inf


def test_an_empty_history_changes_nothing() -> None:
    assert SHIPPED.refitted([]) == SHIPPED


def test_a_long_history_is_followed_and_a_short_one_hardly() -> None:
    generator = np.random.default_rng(0)

    def record() -> StartRecord:
        start, probed = generator.uniform(0, 12), generator.uniform(0, 3)
        # A world of its own: the more the probe leaves, the sooner it is done.
        iterations = math.expm1(3.0 - 1.0 * math.log1p(probed))
        return StartRecord("t", "s", start, probed, 1.0, iterations)

    history = [record() for _ in range(20_000)]
    followed = SHIPPED.refitted(history)
    assert followed.predict(5.0, 0.0, 1.0) == pytest.approx(math.expm1(3.0), rel=0.1)
    assert followed.predict(5.0, 2.0, 1.0) == pytest.approx(math.expm1(3 - math.log(3)), rel=0.1)
    hardly = SHIPPED.refitted(history[:2])
    assert hardly.predict(5.0, 1.0, 1.0) == pytest.approx(SHIPPED.predict(5.0, 1.0, 1.0), rel=0.5)
    unusable = StartRecord("t", "s", math.inf, None, 1.0, 10.0)
    assert SHIPPED.refitted([unusable]) == SHIPPED
