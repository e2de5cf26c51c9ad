"""A double of vLLM that runs as a process, and adapter folders that it accepts."""

import json
import sys
from pathlib import Path

DOUBLE = Path(__file__).parent / "serving" / "double"


def write_double_python(script: Path) -> Path:
    """Write an interpreter for which `vllm` is the double."""
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nPYTHONPATH={DOUBLE} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


def write_adapter(folder: Path, rank: int = 8, **config: object) -> Path:
    """Write an adapter's folder; the weights are empty, which the double accepts."""
    folder.mkdir(parents=True)
    document = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj"],
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(document))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder
