"""Traces of active learning are made once, and only where a model can be fitted."""

from pathlib import Path

import pandas as pd
import pytest

from assets.serving.refined_traces import refined_traces
from assets.serving.trace_batches import TraceConfig
from maitre.maxpack.design import design
from maitre.maxpack.traces import make_traces
from maitre.twin import ServerProfile
from resources.data_home import DataHome

PROFILE = ServerProfile.load("h100-64gb/qwen-2.5-7b-instruct")
CONFIG = TraceConfig(duration_s=120.0)


@pytest.fixture(scope="module")
def traces() -> pd.DataFrame:
    return make_traces(PROFILE, design(PROFILE, 64, seed=4), 120.0, seed=4, workers=1)


def test_they_are_made_once(
    traces: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = DataHome(root=str(tmp_path))
    found = refined_traces(home, PROFILE, traces, 8, CONFIG)
    assert len(found) == 8
    assert not set(found["seed"]) & set(traces["seed"])
    monkeypatch.setattr("maitre.maxpack.traces.make_traces", None)
    again = refined_traces(home, PROFILE, traces, 8, CONFIG)
    assert again.equals(found)


def test_too_few_traces_ask_for_none(traces: pd.DataFrame, tmp_path: Path) -> None:
    few = traces.head(10)
    found = refined_traces(DataHome(root=str(tmp_path)), PROFILE, few, 8, CONFIG)
    assert found.empty
    assert list(found.columns) == list(few.columns)
