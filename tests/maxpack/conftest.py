"""A small model fitted on short traces, made once."""

import pandas as pd
import pytest

from maitre.maxpack.design import design
from maitre.maxpack.fit import fit_model
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.traces import make_traces
from maitre.twin import ServerProfile


@pytest.fixture(scope="session")
def profile() -> ServerProfile:
    return ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")


@pytest.fixture(scope="session")
def traces(profile: ServerProfile) -> pd.DataFrame:
    return make_traces(profile, design(profile, 96, seed=3), 300.0, seed=3, workers=1)


@pytest.fixture(scope="session")
def model(traces: pd.DataFrame) -> MaxpackModel:
    return fit_model(traces, iterations=40)
