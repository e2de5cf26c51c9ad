"""Measurements taken over into the data home, and whether a profile still foretells them."""

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.vllm_measurements import twin_fidelity, vllm_measurements
from maitre.twin import ServerProfile
from maitre.twin.measure.capacity import server_config
from maitre.twin.measure.design import MeasuredServer
from maitre.twin.measure.samples import COLUMNS
from maitre.twin.simulate import simulate
from maitre.twin.workload import Workload
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.vllm.measurement import Measurement

PROFILE = "h100-64gb/llama-3.1-8b-instruct"
KIND = PROFILE.replace("/", "-")
SERVER = MeasuredServer(8, 16, 256, 2048, 8192, 200_000)
DURATION_S = 60.0


def rows(slow: float) -> list[dict]:
    """A load whose answers take as long as the twin says, times `slow`."""
    random = np.random.default_rng(0)
    due = np.sort(random.uniform(0, 55.0, 120))
    trace = pd.DataFrame(
        {"arrival_s": due, "adapter": "a", "input_tokens": 64, "output_tokens": 32}
    )
    workload = Workload.from_trace(trace, ranks=8, duration_s=DURATION_S)
    result = simulate(ServerProfile.load(PROFILE), server_config(SERVER, 1), workload)
    gap_s, first_s = 1e-3 * result.itl_ms.mean * slow, 1e-3 * result.ttft_ms.mean * slow
    made = []
    for at in due:
        chunks = list(at + first_s + gap_s * np.arange(32))
        row = dict.fromkeys(COLUMNS, 0.0) | {
            "point": "v", "kind": "load", "role": "validation", "adapter": "a", "rank": 8,
            "due_s": at, "sent_s": at, "first_token_s": chunks[0], "last_token_s": chunks[-1],
            "end_s": chunks[-1], "chunk_s": chunks, "input_tokens": 64, "output_tokens": 32,
            "asked_tokens": 32, "outcome": "ok", "error": "", "duration_s": DURATION_S,
        }  # fmt: skip
        made.append(row)
    return made


@pytest.mark.parametrize(("slow", "passes"), [(1.0, True), (40.0, False)])
def test_a_profile_is_held_against_what_was_measured(
    tmp_path: Path, slow: float, passes: bool
) -> None:
    measurement = Measurement(tmp_path / "samples")
    measurement.begin(SERVER, {"name": PROFILE, "engine": "vLLM"})
    measurement.add(rows(slow), 0)
    home = DataHome(root=str(tmp_path / "home"))
    inputs = Inputs(tasks="", adapters="", profile=PROFILE, held_back=[])
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("server_kinds", [KIND])
        made = dg.materialize(
            [vllm_measurements], partition_key=KIND, instance=instance, resources={"home": home},
            run_config={
                "ops": {"vllm_measurements": {"config": {"samples": str(measurement.folder)}}}
            },
        )  # fmt: skip
        assert made.success
    check = twin_fidelity(home=home, inputs=inputs)
    assert check.metadata["measured"].value is True
    assert check.passed is passes


def test_a_profile_that_nobody_measured_is_not_held_against_anything(tmp_path: Path) -> None:
    inputs = Inputs(tasks="", adapters="", profile=PROFILE, held_back=[])
    check = twin_fidelity(home=DataHome(root=str(tmp_path)), inputs=inputs)
    assert check.passed
    assert check.metadata["measured"].value is False
