"""A double of vLLM that runs as a process, in place of the real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from maitre.serving.fleet.local_server import LaunchOptions
from tests.vllm_double import write_adapter, write_double_python


@pytest.fixture
def double_python(tmp_path: Path) -> Path:
    """An interpreter for which `vllm` is the double of this folder."""
    return write_double_python(tmp_path / "python")


@pytest.fixture
def launch() -> LaunchOptions:
    return LaunchOptions("some-model", "tiny", max_loras=4, max_lora_rank=8)


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """Make an adapter's folder of a rank; its weights are empty, which the double does not mind."""

    def make(name: str, rank: int = 8) -> Path:
        return write_adapter(tmp_path / "adapters" / name, rank)

    return make
