"""What placement tests share."""

import pytest

from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.steady import SteadyStateModel
from maitre.placement.capacity import Capacity
from maitre.twin import ServerProfile


@pytest.fixture(scope="session")
def profile() -> ServerProfile:
    return ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")


@pytest.fixture(scope="session")
def capacity(profile: ServerProfile) -> Capacity:
    options = ServerOptions.of(profile, default_lengths())
    return Capacity(SteadyStateModel(), options, 0.01, profile.valid.adapters[1])
