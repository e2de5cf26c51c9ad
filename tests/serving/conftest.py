"""A double of vLLM that runs as a process, in place of the real one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maitre.serving.fleet.local_server import LaunchOptions

DOUBLE = Path(__file__).parent / "double"


@pytest.fixture
def double_python(tmp_path: Path) -> Path:
    """An interpreter for which `vllm` is the double of this folder."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={DOUBLE} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
def launch() -> LaunchOptions:
    return LaunchOptions("some-model", "tiny", max_loras=4, max_lora_rank=8)


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """Make an adapter's folder of a rank; its weights are empty, which the double does not mind."""

    def make(name: str, rank: int = 8) -> Path:
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": rank}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        return folder

    return make
