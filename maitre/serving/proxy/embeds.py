"""Soft prompts for a stock vLLM: a whole prompt as embeddings, `prompt_embeds`.

vLLM (started with `--enable-prompt-embeds`) takes, in `/v1/completions`, the base64 of what
`torch.save` writes of a tensor `[tokens, hidden]`. The base model's input embeddings are read from
its folder; no model is loaded.
"""

import base64
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maitre.errors import UserError, reading
from maitre.tuning.export import StoredPrompt, import_prompt

REGISTERED_CARD, REGISTERED_PROMPT = "prompt.json", "prompt.safetensors"
EMBEDDING_TENSORS = ("model.embed_tokens.weight", "transformer.wte.weight")


def encode_embeds(rows: np.ndarray, dtype: str = "float32") -> str:
    """Embeddings `[tokens, hidden]` in the form that vLLM takes. `dtype`: the server's own."""
    import torch

    buffer = io.BytesIO()
    tensor = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    torch.save(tensor.to(getattr(torch, dtype)).contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read_input_embeddings(folder: Path) -> np.ndarray:
    """The input embedding matrix `[vocabulary, hidden]`, float32, of a model folder.

    Raises:
        ValueError: the folder holds none under a known name.
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
    raise UserError(f"{folder}: no input embeddings ({' or '.join(EMBEDDING_TENSORS)})")


@dataclass(frozen=True, eq=False)
class PromptEmbedder:
    """Turns texts or chats and a tuned prompt into `prompt_embeds`."""

    embeddings: np.ndarray
    tokenizer: Any
    dtype: str = "float32"

    @classmethod
    def of_folder(cls, folder: Path, dtype: str = "float32") -> "PromptEmbedder":
        """Read a base model's embeddings and tokenizer.

        Raises:
            ValueError: the folder is not a model's.
        """
        from transformers import AutoTokenizer

        embeddings = read_input_embeddings(folder)
        return cls(embeddings, AutoTokenizer.from_pretrained(folder), dtype)

    def embed(self, tuned: StoredPrompt, text: str | list[dict[str, str]]) -> str:
        """`prompt_embeds` of a tuned prompt before (or after) a text or chat.

        Tokens are those that tuning saw: a text with the tokenizer's special tokens, a chat
        through its template with the opening of the answer.

        Raises:
            ValueError: the prompt was tuned for a model of another width, or nothing is asked.
        """
        hidden = self.embeddings.shape[1]
        if tuned.prompt.shape[1] != hidden:
            raise UserError(
                f"the tuned prompt has width {tuned.prompt.shape[1]}, the base model {hidden}"
            )
        if isinstance(text, str):
            ids = self.tokenizer(text).input_ids
        else:
            chat = self.tokenizer.apply_chat_template(
                text, tokenize=False, add_generation_prompt=True
            )
            ids = self.tokenizer(chat, add_special_tokens=False).input_ids
        if not ids:
            raise UserError("the prompt tokenises to nothing")
        parts = [tuned.prompt, self.embeddings[np.asarray(ids)]]
        if tuned.position == "suffix":
            parts.reverse()
        return encode_embeds(np.concatenate(parts), self.dtype)


def read_tuned_prompt(folder: Path) -> StoredPrompt:
    """A tuned prompt's folder: as the tuning half exports it, or a registered version's."""
    card = folder / REGISTERED_CARD
    if not card.is_file():
        return import_prompt(folder)
    with reading(card):
        known = json.loads(card.read_text())
    stored = import_prompt(folder / REGISTERED_PROMPT)
    return replace(
        stored,
        position=known["position"],
        base_model=known["base_model"],
        base_model_hash=known["base_model_hash"],
    )
