"""The frozen base model that prompts are tuned for: weights, tokenizer and their fingerprints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maitre.errors import UserError
from maitre.tuning import attention
from maitre.tuning.weights_hash import tokenizer_hash, weights_hash

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BaseModel:
    """A causal language model with frozen weights.

    `name` is the folder's name or the hub id; `hash` and `tokenizer_hash` are SHA-256 fingerprints
    of what is stored, by which the prompt bank tells models apart.
    """

    model: Any
    tokenizer: Any
    name: str
    hash: str
    tokenizer_hash: str
    device: torch.device

    @property
    def hidden_size(self) -> int:
        """Length of one input embedding."""
        return int(self.embeddings.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The precision the weights are held in."""
        return self.embeddings.dtype

    @property
    def embeddings(self) -> torch.Tensor:
        """The input embedding matrix `[vocabulary, hidden]`."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def max_context_tokens(self) -> int:
        """The longest sequence that the model takes."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits of the decoder's last hidden states `[..., hidden]`.

        Hidden states are given as a contiguous matrix where speed matters: the head is the largest
        product of a pass, and a CPU multiplies strided slices far slower.
        """
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden)
        softcap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @classmethod
    def load(
        cls, path_or_hub_id: str | Path, device: str = "auto", dtype: str = "auto"
    ) -> "BaseModel":
        """Load a model folder, or a model of the Hugging Face hub, and freeze it.

        `device="auto"` is a GPU where there is one, else the CPU. `dtype="auto"` is bfloat16, but
        float32 on a CPU without bfloat16 instructions (with them a step is about 3 times cheaper).
        Raises `UserError` when nothing loadable is there or the arguments name no such thing.
        """
        chosen_device = _device(device)
        chosen_dtype = _dtype(dtype, chosen_device)
        folder = _folder(path_or_hub_id)
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=chosen_dtype,
                use_safetensors=True,
                attn_implementation=_attention(chosen_device),
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
            fingerprint = weights_hash(folder)
            vocabulary = tokenizer_hash(folder)
        except Exception as error:
            raise UserError(f"base model {path_or_hub_id}: cannot be loaded: {error}") from error
        # Evaluation presumes greedy decoding; a model's own settings (a repetition penalty, other
        # ends) would give other answers.
        model.generation_config = GenerationConfig()
        model.requires_grad_(False)
        model.eval()
        model.to(chosen_device)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        local = Path(path_or_hub_id).is_dir()
        return cls(
            model=model,
            tokenizer=tokenizer,
            name=folder.resolve().name if local else str(path_or_hub_id),
            hash=fingerprint,
            tokenizer_hash=vocabulary,
            device=chosen_device,
        )


def _folder(path_or_hub_id: str | Path) -> Path:
    """The local folder of a model; a hub id is fetched first (or taken from the hub's cache)."""
    path = Path(path_or_hub_id)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"base model {path}: the folder has no config.json")
        return path
    looks_local = path.is_absolute() or str(path_or_hub_id).startswith((".", "~"))
    if looks_local or len(path.parts) > 2:
        raise UserError(f"base model {path_or_hub_id}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path_or_hub_id),
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            )
        )
    except Exception as error:
        raise UserError(
            f"base model {path_or_hub_id}: neither a local folder nor a model the hub gives out "
            f"({type(error).__name__})"
        ) from error


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: this machine has no usable CUDA GPU")
    return chosen


def _attention(device: torch.device) -> str | None:
    """The attention that is fastest for tuning; `None` leaves the choice to transformers."""
    return attention.register() if device.type == "cpu" else None


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return (
            torch.float32 if device.type == "cpu" and not _cpu_multiplies_bf16() else torch.bfloat16
        )
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r}: expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
