import numpy as np
import pandas as pd
import pytest

from maitre.maxpack.options import default_lengths
from maitre.twin import Lengths


@pytest.mark.parametrize("name", Lengths.names())
def test_named_lengths_take_the_means_asked_for(name):
    lengths = Lengths.named(name, mean_input_tokens=300, mean_output_tokens=90)
    inputs, outputs = lengths.draw(np.random.default_rng(0), 200_000)
    assert inputs.mean() == pytest.approx(300, rel=0.01)
    assert outputs.mean() == pytest.approx(90, rel=0.01)
    assert inputs.min() >= 1
    assert outputs.min() >= 1
    assert (inputs + outputs).max() <= lengths.max_total_tokens
    assert (inputs == np.rint(inputs)).all()


def test_sharegpt_has_the_measured_means_wherever_nothing_else_is_given():
    default = Lengths.named("sharegpt")
    assert default.means() == pytest.approx((222.4, 195.0), abs=0.01)
    assert default.means() == default_lengths().means()
    assert Lengths.named("sharegpt", mean_input_tokens=300).means()[1] == pytest.approx(
        195, abs=0.01
    )


def test_sharegpt_prompts_and_answers_are_anti_correlated():
    inputs, outputs = Lengths.named("sharegpt").draw(np.random.default_rng(0), 100_000)
    ranks = [np.argsort(np.argsort(values)) for values in (inputs, outputs)]
    assert np.corrcoef(ranks)[0, 1] < -0.2


def test_a_frame_gives_its_joint_distribution():
    rng = np.random.default_rng(1)
    inputs = rng.integers(10, 1000, 20_000)
    frame = pd.DataFrame({"input_tokens": inputs, "output_tokens": 1100 - inputs})
    drawn_in, drawn_out = Lengths.from_frame(frame).draw(rng, 50_000)
    assert drawn_in.mean() == pytest.approx(inputs.mean(), rel=0.02)
    assert np.corrcoef(drawn_in, drawn_out)[0, 1] < -0.98


def test_fixed_lengths_are_fixed():
    inputs, outputs = Lengths.fixed(17, 4).draw(np.random.default_rng(0), 100)
    assert set(inputs) == {17.0}
    assert set(outputs) == {4.0}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lengths.named("novel"), "no distribution 'novel'"),
        (lambda: Lengths.named("sharegpt", mean_input_tokens=float("nan")), "mean_input_tokens"),
        (lambda: Lengths.named("sharegpt", mean_output_tokens=-3), "mean_output_tokens"),
        (
            lambda: Lengths.from_frame(pd.DataFrame({"input_tokens": [3.0]})),
            "no column 'output_tokens'",
        ),
        (
            lambda: Lengths.from_frame(
                pd.DataFrame({"input_tokens": [3.0, np.nan], "output_tokens": [1, 1]})
            ),
            r"lengths\.input_tokens: row 1",
        ),
    ],
)
def test_bad_lengths_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
