import pytest

from maitre.twin import Lengths, ServerProfile


@pytest.fixture(scope="session")
def profile() -> ServerProfile:
    return ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")


@pytest.fixture(scope="session")
def sharegpt() -> Lengths:
    return Lengths.named("sharegpt", mean_input_tokens=222.4, mean_output_tokens=195.0)
