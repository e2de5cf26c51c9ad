"""The frozen base model that prompts are tuned for: weights, tokenizer and their fingerprints."""

import inspect
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from maitre.errors import UserError
from maitre.tuning.model_folder import model_folder
from maitre.tuning.self_check import PLAIN, Passes, checked_passes, context_of_fixed_rotations
from maitre.tuning.weights_hash import tokenizer_hash, weights_hash

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LONGEST_REASON = 300
"""Characters of an error of transformers that are quoted: some list hundreds of classes."""


@dataclass(frozen=True)
class BaseModel:
    """A causal language model with frozen weights.

    `name` is the folder's name or the hub id; `hash` and `tokenizer_hash` are SHA-256 fingerprints
    of what is stored, by which the prompt bank tells models apart. `passes` says how rows pass
    through the model exactly.
    """

    model: Any
    tokenizer: Any
    name: str
    hash: str
    tokenizer_hash: str
    device: torch.device
    passes: Passes

    @property
    def hidden_size(self) -> int:
        """Return the length of one input embedding."""
        return int(self.embeddings.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the weights."""
        return self.embeddings.dtype

    @property
    def embeddings(self) -> torch.Tensor:
        """Return the input embedding matrix `[vocabulary, hidden]`, as stored.

        A token's input embedding comes from `embed`: some models scale these rows.
        """
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def text_config(self) -> Any:
        """Return the configuration of the decoder of text."""
        return self.model.config.get_text_config(decoder=True)

    @cached_property
    def without_cache(self) -> dict[str, Any]:
        """Return the argument of a pass that keeps no keys and values, where there is one."""
        parameters = inspect.signature(self.model.forward).parameters
        return {"use_cache": False} if "use_cache" in parameters else {}

    @cached_property
    def fixed_rotations(self) -> int | None:
        """Return the length up to which rotary embeddings do not depend on it; `None`: any."""
        return context_of_fixed_rotations(self.text_config)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the input embeddings of token ids, by the model's own layer."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def passing(self, passes: Passes) -> "BaseModel":
        """Return this model with other passes."""
        return replace(self, passes=passes)

    @property
    def max_context_tokens(self) -> int:
        """Return the length of the longest sequence that the model takes."""
        return int(getattr(self.text_config, "max_position_embeddings", None) or 1 << 30)

    def logits(self, places: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Return the logits `[true places, vocabulary]` of one pass; `places` is `[rows, tokens]`.

        The pass is the model's own. The head, its largest product, gets the hidden states of
        `places` only, as one contiguous matrix: a CPU multiplies strided slices far slower.
        """
        is_selected = False

        def select(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            nonlocal is_selected
            if not arguments or arguments[0].shape[:-1] != places.shape:
                return None
            is_selected = True
            return (arguments[0][places][None], *arguments[1:])

        head = self.model.get_output_embeddings()
        hook = None if head is None else head.register_forward_pre_hook(select)
        try:
            logits: torch.Tensor = self.model(**inputs).logits
        finally:
            if hook is not None:
                hook.remove()
        return logits[0] if is_selected else logits[places]

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
        folder = model_folder(path_or_hub_id)
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            load = partial(
                AutoModelForCausalLM.from_pretrained,
                folder,
                dtype=chosen_dtype,
                use_safetensors=True,
            )
            model = load()
            is_eager = model.config._attn_implementation == "eager"
            if not is_eager and not model._can_set_attn_implementation():
                # The self-check compares with eager attention, which this model takes at load only.
                model = load(attn_implementation="eager")
            tokenizer = AutoTokenizer.from_pretrained(folder)
            fingerprint = weights_hash(folder)
            vocabulary = tokenizer_hash(folder)
        except Exception as error:
            why = " ".join(str(error).split())[:_LONGEST_REASON]
            raise UserError(f"base model {path_or_hub_id}: cannot be loaded: {why}") from error
        # Evaluation presumes greedy decoding; a model's own settings (a repetition penalty, other
        # ends) would give other answers.
        model.generation_config = GenerationConfig()
        model.requires_grad_(False)
        model.eval()
        model.to(chosen_device)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        local = Path(path_or_hub_id).is_dir()
        unchecked = cls(
            model=model,
            tokenizer=tokenizer,
            name=folder.resolve().name if local else str(path_or_hub_id),
            hash=fingerprint,
            tokenizer_hash=vocabulary,
            device=chosen_device,
            passes=PLAIN,
        )
        return unchecked.passing(checked_passes(unchecked, folder))


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


def _cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return (
            torch.float32 if device.type == "cpu" and not _cpu_multiplies_bf16() else torch.bfloat16
        )
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r}: expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
