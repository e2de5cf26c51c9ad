"""The shipped profile of a CPU server against the samples that it comes from."""

from pathlib import Path

import pytest

from maitre.serving.measure.samples_folder import Measurement
from maitre.twin import ServerProfile
from maitre.twin.fitting.fidelity import fit_and_compare, summary
from maitre.twin.fitting.report import fit_report

SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "vllm" / "smollm2-135m"
REACH_PERCENT = 5.0


@pytest.mark.slow
def test_the_shipped_profile_comes_out_of_its_samples_and_foretells_validation_loads() -> None:
    measurement = Measurement(SAMPLES)
    samples, server = measurement.read(), measurement.server()
    profile, loads = fit_and_compare(samples, server, measurement.identity())
    shipped = ServerProfile.load("cpu/smollm2-135m")
    for name, value in shipped.step.model_dump().items():
        assert getattr(profile.step, name) == pytest.approx(value, rel=0.02, abs=1e-3), name
    unseen = loads[loads["role"] == "validation"]
    found = summary(unseen)
    assert found["throughput_tps_error_percent"] <= REACH_PERCENT
    assert found["starvation_wrong_by_more_than_10_percent"] == 0
    assert shipped.fit["validation"]["throughput_tps_error_percent"] == pytest.approx(
        found["throughput_tps_error_percent"], abs=0.5
    )
    page = fit_report(profile, samples, server, loads)
    assert all(point in page for point in (*loads["point"], "burst-b32-l8-c16", "prefill-p192-l1"))
