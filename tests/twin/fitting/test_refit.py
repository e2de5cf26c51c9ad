"""When a profile still holds for its measured server, and what a refit says."""

import pandas as pd
import pytest

from maitre.twin import ServerProfile
from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.fit import ProfileIdentity
from maitre.twin.fitting.refit import Fidelity, refit, stated_error_percent


def fidelity(error: float, stated: float, wrong: int = 0) -> Fidelity:
    figures = {
        "throughput_tps_error_percent": error,
        "starvation_wrong_by_more_than_10_percent": wrong,
    }
    return Fidelity(figures, stated, pd.DataFrame())


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (fidelity(2.0, 0.1), True),
        (fidelity(2.1, 0.1), False),
        (fidelity(6.0, 3.0), True),
        (fidelity(6.1, 3.0), False),
        (fidelity(0.0, 3.0, wrong=1), False),
    ],
)
def test_twice_the_stated_error_is_allowed_and_no_clear_starvation_missed(found, holds) -> None:
    assert found.holds is holds


def test_the_stated_error_is_that_of_either_kind_of_fit() -> None:
    assert stated_error_percent(ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")) == 0.65
    measured = ServerProfile.load("cpu/smollm2-135m")
    expected = measured.fit["validation"]["throughput_tps_error_percent"]
    assert stated_error_percent(measured) == expected > 0


def test_samples_without_a_load_change_no_profile() -> None:
    samples = pd.DataFrame({"kind": ["burst", "load"], "adapter": ["a", ""]})
    server = MeasuredServer(1, 16, 64, 2048, 4096, 2048)
    found = refit(None, samples, server, ProfileIdentity("cpu/tiny", "tiny", "a CPU", "vLLM"))
    assert found.profile is None
    assert found.surprising
    assert "no load" in found.reason
