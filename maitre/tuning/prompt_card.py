"""What is known of a registered prompt: whose model it is for, and how it is asked."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from maitre.checksums import check_digest, check_seal, digest_of, sealed
from maitre.tuning.config import Position, TuningInputError

CARD_FILE, PROMPT_FILE = "prompt.json", "prompt.safetensors"
Inputs = Literal["text", "chat", "mixed"]


@dataclass(frozen=True)
class PromptCard:
    """The card of a registered prompt.

    `inputs`: whether the task's examples are texts, chats or both. `dtype` is the precision of the
    base model in tuning. `chat_template_hash` is None for texts. `eval_loss` and `eval_accuracy`
    are of the split that `eval_fingerprint` names. `tenant` None means that the prompt is public.
    `prompt_sha256` is the digest of the weights file.
    """

    task: str
    base_model: str
    base_model_hash: str
    position: Position
    max_new_tokens: int = 16
    eval_accuracy: float | None = None
    eval_loss: float | None = None
    eval_fingerprint: str | None = None
    task_fingerprint: str | None = None
    metric: str = "accuracy"
    inputs: Inputs = "text"
    fold_system: bool = False
    tokenizer_hash: str | None = None
    chat_template_hash: str | None = None
    dtype: str = "auto"
    tenant: str | None = None
    prompt_sha256: str | None = None


def write_prompt(folder: Path, card: PromptCard, prompt: np.ndarray) -> None:
    """Write a prompt `[virtual_tokens, hidden]` and its card into a folder."""
    raw = safetensors.numpy.save({"prompt": np.ascontiguousarray(prompt, dtype=np.float32)})
    (folder / PROMPT_FILE).write_bytes(raw)
    document = asdict(card) | {"prompt_sha256": digest_of(raw)}
    (folder / CARD_FILE).write_text(json.dumps(sealed(document), indent=2) + "\n")


def read_prompt(folder: Path) -> tuple[PromptCard, np.ndarray]:
    """Read what `write_prompt` wrote; cards of earlier versions have no digests.

    Raises:
        TuningInputError: a file is missing, damaged or of another kind.
    """
    path = folder / CARD_FILE
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict):
            raise TypeError
        check_seal(document, str(path), TuningInputError)
        names = {field.name for field in fields(PromptCard)}
        card = PromptCard(**{name: value for name, value in document.items() if name in names})
        raw = (folder / PROMPT_FILE).read_bytes()
        weights = str(folder / PROMPT_FILE)
        check_digest(card.prompt_sha256, digest_of(raw), weights, TuningInputError)
        prompt = safetensors.numpy.load(raw)["prompt"].astype(np.float32)
        if card.position not in ("suffix", "prefix") or prompt.ndim != 2:
            raise ValueError
        if not np.isfinite(prompt).all():
            raise ValueError
    except OSError as error:
        raise TuningInputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        if isinstance(error, TuningInputError):
            raise
        raise TuningInputError(f"{folder}: holds no registered prompt, or a damaged one") from error
    return card, prompt


def chat_template_hash(tokenizer: Any) -> str | None:
    """Return the SHA-256 of a tokenizer's chat template; None where it has none."""
    template = tokenizer.chat_template
    if not template:
        return None
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()
