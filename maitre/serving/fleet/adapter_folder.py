"""Check an adapter's folder before a server loads it."""

import json
from pathlib import Path

from maitre.errors import UserError, reading

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")


class AdapterError(UserError):
    """An adapter that no server could load; the message names the adapter and the reason."""


def adapter_rank(folder: Path) -> int:
    """Return the rank of the LoRA adapter in a folder of peft's format.

    Raises:
        AdapterError: a file is missing, or the folder holds no LoRA adapter.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(f"adapter file missing: {file}")
    if not any((folder / name).is_file() for name in WEIGHTS_FILES):
        raise AdapterError(f"adapter file missing: {folder / WEIGHTS_FILES[0]}")
    with reading(file, AdapterError):
        config = json.loads(file.read_text())
    try:
        kind, rank = config.get("peft_type"), config["r"]
    except (KeyError, AttributeError) as error:
        raise AdapterError(
            f"{file}: expected the configuration of a LoRA adapter; got {error}"
        ) from None
    if kind != "LORA" or not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"{file}: expected a LoRA adapter; got peft_type {kind!r}, r {rank!r}")
    return rank


def check_adapter(folder: Path, max_lora_rank: int) -> None:
    """Raise `AdapterError` if a server with this `max_lora_rank` would refuse the adapter."""
    rank = adapter_rank(folder)
    if rank > max_lora_rank:
        raise AdapterError(f"{folder.name}: rank {rank} is above the server's {max_lora_rank}")
