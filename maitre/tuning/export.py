"""Tuned prompts as folders that others load: peft's prompt-tuning format, or Maitre's own.

peft (and vLLM, for the models that take prompt adapters) knows soft prompts only before the input,
so a `prefix` prompt becomes a peft folder; a `suffix` prompt becomes `soft_prompt.safetensors`
with the place and the base model in its metadata. Nothing is pickled.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from maitre.checksums import SEAL, check_digest, digest_of_arrays
from maitre.files import replacing_folder
from maitre.tuning.config import Position, TuningInputError

PEFT_WEIGHTS = "adapter_model.safetensors"
SOFT_PROMPT_FILE = "soft_prompt.safetensors"
_PEFT_TENSOR = "prompt_embeddings"
_TENSOR = "prompt"


@dataclass(frozen=True, eq=False)
class StoredPrompt:
    """A prompt read from a folder: float32 `[virtual_tokens, hidden]`, its place and its model.

    `tenant` None means that the prompt is public. `fold_system` is the task's. `max_new_tokens` is
    the length of the task's longest answer, None where it is not known.
    """

    prompt: np.ndarray
    position: Position
    base_model: str
    base_model_hash: str | None
    tenant: str | None = None
    fold_system: bool = False
    max_new_tokens: int | None = None


def export_prompt(
    prompt: np.ndarray,
    folder: Path,
    *,
    position: Position,
    base_model: str,
    base_model_hash: str,
    tenant: str | None = None,
    fold_system: bool = False,
    max_new_tokens: int | None = None,
) -> Path:
    """Write a prompt `[virtual_tokens, hidden]` as a folder; whole or not at all.

    `base_model` is the folder or hub id which peft loads the model from. The weights file names
    the `tenant` that the prompt is private to. Raises `TuningInputError` when `folder` exists.
    """
    values = np.ascontiguousarray(prompt, dtype=np.float32)
    metadata = {
        "format": "pt",
        "position": position,
        "base_model": base_model,
        "base_model_hash": base_model_hash,
    }
    if tenant is not None:
        metadata["tenant"] = tenant
    if fold_system:
        metadata["fold_system"] = "true"
    if max_new_tokens is not None:
        metadata["max_new_tokens"] = str(max_new_tokens)
    metadata[SEAL] = _digest(values, metadata)

    def write(into: Path) -> None:
        if position == "suffix":
            safetensors.numpy.save_file({_TENSOR: values}, into / SOFT_PROMPT_FILE, metadata)
            return
        from peft import PromptTuningConfig

        PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=values.shape[0],
            token_dim=values.shape[1],
            base_model_name_or_path=base_model,
            inference_mode=True,
        ).save_pretrained(into)
        safetensors.numpy.save_file({_PEFT_TENSOR: values}, into / PEFT_WEIGHTS, metadata)

    return write_folder(folder, write)


def import_prompt(path: Path) -> StoredPrompt:
    """Read a prompt from a folder that `export_prompt` or peft wrote, or from its weights file.

    Raises `TuningInputError` when there is none or the file is damaged.
    """
    files = [path] if path.is_file() else [path / SOFT_PROMPT_FILE, path / PEFT_WEIGHTS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise TuningInputError(f"{path}: holds neither {SOFT_PROMPT_FILE} nor {PEFT_WEIGHTS}")
    try:
        with safetensors.safe_open(file, framework="np") as tensors:
            metadata = tensors.metadata() or {}
            names = [name for name in (_TENSOR, _PEFT_TENSOR) if name in tensors.keys()]  # noqa: SIM118
            if not names:
                raise TuningInputError(f"{file}: has no tensor {_TENSOR!r} or {_PEFT_TENSOR!r}")
            values = tensors.get_tensor(names[0]).astype(np.float32)
    except safetensors.SafetensorError as error:
        raise TuningInputError(f"{file}: is damaged or truncated ({error})") from error
    # peft writes none, nor did earlier versions.
    check_digest(metadata.get(SEAL), _digest(values, metadata), str(file), TuningInputError)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise TuningInputError(f"{file}: shape {values.shape}, or values that are not finite")
    is_prefix = names[0] == _PEFT_TENSOR or metadata.get("position") == "prefix"
    return StoredPrompt(
        prompt=values,
        position="prefix" if is_prefix else "suffix",
        base_model=metadata.get("base_model", ""),
        base_model_hash=metadata.get("base_model_hash"),
        tenant=metadata.get("tenant"),
        fold_system=metadata.get("fold_system") == "true",
        max_new_tokens=_whole_number(metadata.get("max_new_tokens")),
    )


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill a new folder by `write`, which gets a temporary one; it appears whole or not at all."""
    check_new_folder(folder)
    with replacing_folder(folder) as unfinished:
        write(unfinished)
    return folder


def check_new_folder(folder: Path) -> None:
    """Raise `TuningInputError` where something is already."""
    if folder.exists():
        raise TuningInputError(f"{folder} exists already; nothing was written")


def _digest(values: np.ndarray, metadata: Mapping[str, str]) -> str:
    facts = {name: value for name, value in metadata.items() if name != SEAL}
    return digest_of_arrays({_TENSOR: values}, json.dumps(facts, sort_keys=True))
