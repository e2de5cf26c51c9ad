"""Check an adapter's folder before a server loads it: whatever vLLM would refuse is refused here.

The rules are those of `vllm/lora/peft_helper.py` and of vLLM's loader.
"""

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maitre.errors import UserError, reading
from maitre.files import write_bytes

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
# These initial values leave the base model's weights as they are.
_PLAIN_INITIAL_WEIGHTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_CLASSIFIER_MODULES = frozenset({"classifier", "score"})
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias of the LoRA layers (lora_bias)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer_replication",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "use_qalora": "QALoRA (use_qalora)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "megatron_config": "Megatron layers (megatron_config)",
}


class AdapterError(UserError):
    """An adapter that no server could load; the message names the adapter and the reason."""


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter in a folder of peft's format, as its configuration describes it.

    `rank` is the largest rank of any of its layers. `unsupported` lists what vLLM would refuse.
    """

    path: Path
    rank: int
    base_model: str
    unsupported: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, *, name: str = "") -> "AdapterFolder":
        """Read the configuration of the adapter in a folder; a byte order mark is accepted.

        Raises:
            AdapterError: a file is missing, or the folder holds no LoRA adapter.
        """
        file = path / CONFIG_FILE
        for needed in (file, path / WEIGHTS_FILES[0]):
            found = [path / weights for weights in WEIGHTS_FILES] if needed != file else [file]
            if not any(candidate.is_file() for candidate in found):
                raise AdapterError(f"{name or path.name}: adapter file missing: {needed}")
        with reading(file, AdapterError):
            text = file.read_text(encoding="utf-8-sig")
            try:
                config = json.loads(text)
            except RecursionError:
                raise AdapterError(
                    f"{file}: expected a JSON object; it is nested too deeply"
                ) from None
        if not isinstance(config, dict):
            raise AdapterError(f"{file}: expected a JSON object; got {type(config).__name__}")
        kind = config.get("peft_type")
        if kind != "LORA":
            raise AdapterError(f"{file}: expected a LoRA adapter; got peft_type {kind!r}")
        rank = max([_rank(file, "r", config.get("r")), *_pattern_ranks(file, config)])
        return cls(
            path,
            rank,
            str(config.get("base_model_name_or_path") or ""),
            _unsupported_by_vllm(config),
        )

    def check(self, max_lora_rank: int, base_models: frozenset[str] = frozenset()) -> None:
        """Check that a server with this `max_lora_rank` and base model would load the adapter.

        `base_models` holds the names, ids and paths of the server's base model; empty: any.

        Raises:
            AdapterError: vLLM would refuse the adapter, or it was trained on another base model.
        """
        problems = [f"vLLM does not support {feature}" for feature in self.unsupported]
        if self.rank > max_lora_rank:
            problems.append(f"rank {self.rank} is above the server's {max_lora_rank}")
        if base_models and self.base_model and not same_model(self.base_model, base_models):
            problems.append(
                f"its base model is {self.base_model}, not {' or '.join(sorted(base_models))}"
            )
        if problems:
            raise AdapterError(f"{self.path.name}: {'; '.join(problems)}")


def without_byte_order_mark(folder: Path, copy: Path) -> Path:
    """Return a folder whose configuration vLLM can read: `folder`, or a copy without the mark.

    The copy links to the other files of `folder`.
    """
    content = (folder / CONFIG_FILE).read_bytes()
    if not content.startswith(codecs.BOM_UTF8):
        return folder
    copy.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        link = copy / file.name
        link.unlink(missing_ok=True)
        if file.name != CONFIG_FILE:
            link.symlink_to(file.resolve())
    write_bytes(copy / CONFIG_FILE, content.removeprefix(codecs.BOM_UTF8))
    return copy


def adapter_rank(folder: Path) -> int:
    """Return the largest rank of the LoRA adapter in a folder of peft's format.

    Raises:
        AdapterError: a file is missing, or the folder holds no LoRA adapter.
    """
    return AdapterFolder.read(folder).rank


def check_adapter(
    folder: Path, max_lora_rank: int, base_models: frozenset[str] = frozenset()
) -> None:
    """Raise `AdapterError` if a server with this `max_lora_rank` would refuse the adapter."""
    AdapterFolder.read(folder).check(max_lora_rank, base_models)


def same_model(trained_on: str, base_models: frozenset[str]) -> bool:
    """Return whether an adapter's base model may be one of these names, ids or paths.

    Only the last part counts, without case and punctuation: adapters name their base model by a hub
    id, a folder or a snapshot in the hub's cache, servers by a short name. A folder of the machine
    that the adapter was tuned on says nothing: it may have any name.
    """
    if trained_on.startswith(("/", ".", "~")) and "models--" not in trained_on:
        return True
    return bool(_short_names(trained_on) & {n for base in base_models for n in _short_names(base)})


def _short_names(model: str) -> set[str]:
    parts = model.replace("\\", "/").rstrip("/").split("/")
    # The hub's cache: .../models--OWNER--NAME/snapshots/REVISION
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return {"".join(c for c in part.lower() if c.isalnum()) for part in (parts[-1], *cached)}


def _rank(file: Path, field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterError(f"{file}: {field}: expected a positive whole number; got {value!r}")
    return value


def _pattern_ranks(file: Path, config: dict[str, Any]) -> list[int]:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise AdapterError(f"{file}: rank_pattern: expected an object; got {pattern!r}")
    return [_rank(file, f"rank_pattern {layer}", rank) for layer, rank in pattern.items()]


def _unsupported_by_vllm(config: dict[str, Any]) -> tuple[str, ...]:
    refused = [what for field, what in _UNSUPPORTED.items() if config.get(field)]
    bias = config.get("bias", "none")
    if bias != "none":
        refused.append(f"bias {bias!r}")
    saved = config.get("modules_to_save") or []
    saved = [saved] if isinstance(saved, str) else saved
    others = [module for module in saved if module not in _CLASSIFIER_MODULES]
    if others:
        refused.append(f"modules_to_save {', '.join(map(str, others))}")
    initial = config.get("init_lora_weights", True)
    if isinstance(initial, str) and initial.lower() not in _PLAIN_INITIAL_WEIGHTS:
        refused.append(f"init_lora_weights {initial!r}, which changes the base model's weights")
    missing = [field for field in ("lora_alpha", "target_modules") if field not in config]
    if missing:
        refused.append(f"a configuration without {' and '.join(missing)}")
    return tuple(refused)
