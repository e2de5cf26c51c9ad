"""Send soft prompts to a stock vLLM: the whole prompt as embeddings (`prompt_embeds`).

A vLLM that runs with `--enable-prompt-embeds` accepts a tensor `[tokens, hidden]` in
`/v1/completions`: `torch.save`'s bytes in base64. The base model's input embeddings are read from
its folder; the model is not loaded.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maitre.errors import UserError
from maitre.tuning.export import StoredPrompt, import_prompt
from maitre.tuning.messages import Message, read_messages
from maitre.tuning.prompt_card import CARD_FILE, read_prompt
from maitre.tuning.prompt_tokens import PromptTokens

EMBEDDING_TENSORS = ("model.embed_tokens.weight", "transformer.wte.weight")


def encode_embeds(rows: np.ndarray, dtype: str = "float32") -> str:
    """Encode embeddings `[tokens, hidden]` for vLLM; `dtype` is the server's."""
    import torch

    buffer = io.BytesIO()
    tensor = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    torch.save(tensor.to(getattr(torch, dtype)).contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read_input_embeddings(folder: Path) -> np.ndarray:
    """Return the input embeddings `[vocabulary, hidden]` of a model folder, as float32.

    Raises:
        UserError: the folder has no tensor of a known name.
    """
    import safetensors

    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        names = json.loads(index.read_text())["weight_map"]
        files = sorted({folder / names[name] for name in EMBEDDING_TENSORS if name in names})
    for file in files:
        if not file.is_file():
            continue
        with safetensors.safe_open(file, framework="pt") as tensors:
            for name in EMBEDDING_TENSORS:
                if name in tensors.keys():  # noqa: SIM118
                    matrix: np.ndarray = tensors.get_tensor(name).float().numpy()
                    return matrix
    raise UserError(
        f"{folder}: expected input embeddings under {' or '.join(EMBEDDING_TENSORS)}; got none"
    )


@dataclass(frozen=True, eq=False)
class PromptEmbedder:
    """Encodes a tuned prompt together with a text or chat as `prompt_embeds`."""

    embeddings: np.ndarray
    tokenizer: Any
    dtype: str = "float32"

    @classmethod
    def of_folder(cls, folder: Path, dtype: str = "float32") -> "PromptEmbedder":
        """Read a base model's embeddings and tokenizer.

        Raises:
            UserError: the folder is not a model's.
        """
        from transformers import AutoTokenizer

        embeddings = read_input_embeddings(folder)
        return cls(embeddings, AutoTokenizer.from_pretrained(folder), dtype)

    def embed(self, tuned: StoredPrompt, text: str | list[dict[str, str]]) -> str:
        """Return the `prompt_embeds` of a tuned prompt before (or after) a text or chat.

        The tokens are those of the tuning: a text with the tokenizer's special tokens, a chat
        through its template with the start of the answer.

        Raises:
            UserError: the prompt was tuned for a model of another width, or the text is empty.
        """
        hidden = self.embeddings.shape[1]
        if tuned.prompt.shape[1] != hidden:
            raise UserError(
                f"tuned prompt: expected width {hidden}, as the base model; "
                f"got {tuned.prompt.shape[1]}"
            )
        if isinstance(text, str):
            asked: str | tuple[Message, ...] = text
        else:
            asked = read_messages(text)
        ids = PromptTokens(self.tokenizer, tuned.fold_system).input_ids(asked)
        parts = [tuned.prompt, self.embeddings[np.asarray(ids)]]
        if tuned.position == "suffix":
            parts.reverse()
        return encode_embeds(np.concatenate(parts), self.dtype)


def read_tuned_prompt(folder: Path) -> StoredPrompt:
    """Read a tuned prompt from a folder that `maitre` exported or of a registered version."""
    card = folder / CARD_FILE
    if not card.is_file():
        return import_prompt(folder)
    known, prompt = read_prompt(folder)
    return StoredPrompt(
        prompt=prompt,
        position=known.position,
        base_model=known.base_model,
        base_model_hash=known.base_model_hash,
        tenant=known.tenant,
        fold_system=known.fold_system,
        max_new_tokens=known.max_new_tokens,
    )


def answer_settings(tuned: StoredPrompt) -> dict[str, Any]:
    """Return the settings of a request with which vLLM answers as the prompt was evaluated.

    Evaluation presumes greedy decoding of as many tokens as the task's longest answer has.
    """
    settings: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.0}
    if tuned.max_new_tokens is not None:
        settings["max_tokens"] = tuned.max_new_tokens
    return settings
