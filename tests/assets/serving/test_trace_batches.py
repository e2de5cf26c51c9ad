"""A partition a file, and a run that goes on where another was killed."""

from pathlib import Path

import dagster as dg
import pytest

from assets.serving import trace_batches as module
from assets.serving.measured_profiles import kind_of
from assets.serving.trace_batches import TraceConfig, batch_file, batch_of_traces, trace_batches
from maitre.twin import ServerProfile
from resources.data_home import TRACE_FILES, DataHome

PROFILE = "h100-64gb/qwen-2.5-7b-instruct"


def test_a_partition_is_one_file_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    home = DataHome(root=str(tmp_path))
    shipped = ServerProfile.load(PROFILE)
    slower = shipped.step.model_copy(update={"base_ms": 2 * shipped.step.base_ms})
    profile = shipped.model_copy(update={"step": slower})
    home.write_fitted_profile(kind_of(PROFILE), profile)
    result = dg.materialize(
        [trace_batches],
        resources={"home": home},
        partition_key=dg.MultiPartitionKey({"profile": PROFILE, "batch": "001"}),
        run_config={"ops": {"trace_batches": {"config": {"duration_s": 30.0}}}},
    )
    [made] = result.asset_materializations_for_node("trace_batches")
    config = TraceConfig(duration_s=30.0)
    name = batch_file(profile, 1, 4, config)
    assert made.metadata["file"].value == f"{TRACE_FILES}/{name}", (
        "of the profile that was fitted here"
    )
    written = home.trace_file(name)
    assert written is not None
    assert len(written) == 4
    monkeypatch.setattr("maitre.maxpack.traces.make_traces", None)
    again = batch_of_traces(home, profile, 1, 4, config)
    assert again.equals(written)


def test_batches_differ(tmp_path: Path) -> None:
    home, config = DataHome(root=str(tmp_path)), TraceConfig(duration_s=10.0)
    profile = ServerProfile.load(PROFILE)
    one, two = (batch_of_traces(home, profile, batch, 2, config) for batch in (0, 1))
    assert not set(one["seed"]) & set(two["seed"])
    assert not one["rate_rps"].equals(two["rate_rps"])
