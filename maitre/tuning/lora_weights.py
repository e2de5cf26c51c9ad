"""A LoRA adapter's weights on a base model, as one vector; and peft's format of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig, TuningInputError

_ADAPTER = "maitre"
_ATTENTION = (
    ("q_proj", "v_proj"),
    ("qkv_proj",),
    ("query_key_value",),
    ("c_attn",),
    ("Wqkv",),
    ("query", "value"),
)
ALL_LINEAR = "all-linear"
"""Peft's name for every linear layer but the head."""


class LoraWeights:
    """The adapter put into a base model's layers; `remove` takes it out again.

    `values` are all its weights end to end, float32.
    """

    def __init__(self, model: BaseModel, config: LoraConfig, seed: int) -> None:
        """Draw the adapter's first matrices by `seed`.

        Raises `TuningInputError` when the model has none of the layers, or peft knows no default
        layers for its architecture.
        """
        from peft import get_peft_model

        self._base = model
        # GPT-2 and its relatives store matrices the other way round.
        layers = dict(_linear_layers(model))
        self.is_transposed = any(type(layer).__name__ == "Conv1D" for layer in layers.values())
        if config.target_modules is None:
            config = replace(config, target_modules=_default_layers(model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # peft draws from the global generator
            try:
                wrapped = get_peft_model(
                    model.model,
                    peft_config(config, is_transposed=self.is_transposed),
                    adapter_name=_ADAPTER,
                )
            except ValueError as error:
                _forget_adapter(model.model)
                raise TuningInputError(_no_layers(model, config)) from error
        self._wrapped: Any = wrapped
        self._refuse_names_without_layer(config)
        self.parameters = [p for p in wrapped.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()

    def _refuse_names_without_layer(self, config: LoraConfig) -> None:
        """Raise `TuningInputError` for a name without a layer; peft checks only for any."""
        if config.target_modules in (None, (ALL_LINEAR,)):
            return
        adapted = [
            name for name, layer in self._wrapped.named_modules() if hasattr(layer, "lora_A")
        ]
        missing = tuple(
            name
            for name in config.target_modules or ()
            if not any(f".{layer}".endswith(f".{name}") for layer in adapted)
        )
        if missing:
            self.remove()
            raise TuningInputError(_no_layers(self._base, replace(config, target_modules=missing)))

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The names of the layers that are adapted."""
        targets = self._wrapped.peft_config[_ADAPTER].target_modules
        return (targets,) if isinstance(targets, str) else tuple(sorted(targets))

    @contextmanager
    def dropping(self, seed: Sequence[int]) -> Iterator[None]:
        """Drop inputs of the adapted layers, as drawn by `seed`."""
        layers = [
            layer
            for name, layer in self._wrapped.named_modules()
            if isinstance(layer, torch.nn.Dropout) and "lora_dropout" in name
        ]
        if not layers:
            yield
            return
        devices = [self._base.device] if self._base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                for layer in layers:
                    layer.eval()

    @property
    def values(self) -> torch.Tensor:
        """The weights as they stand."""
        return flat([parameter.detach() for parameter in self.parameters])

    def put(self, values: torch.Tensor) -> None:
        """Make the weights these."""
        parts = values.split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.data = part.view_as(parameter)

    def named(self) -> dict[str, torch.Tensor]:
        """Return the weights by the names that peft uses."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._wrapped, adapter_name=_ADAPTER)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def remove(self) -> None:
        """Remove the adapter from the base model."""
        self._wrapped.unload()
        self._base.model.requires_grad_(False)
        _forget_adapter(self._base.model)


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors end to end, as one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def peft_config(
    config: LoraConfig, base_model: str | None = None, *, is_transposed: bool = False
) -> Any:
    """Return the adapter's settings in peft's format."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(config),
        fan_in_fan_out=is_transposed,
        base_model_name_or_path=base_model,
    )


def _targets(config: LoraConfig) -> list[str] | str | None:
    if config.target_modules is None:
        return None
    return ALL_LINEAR if config.target_modules == (ALL_LINEAR,) else list(config.target_modules)


def _no_layers(model: BaseModel, config: LoraConfig) -> str:
    """Say which layers are missing, and which are there."""
    there = sorted({name.rpartition(".")[2] for name, _ in _linear_layers(model)})
    known = f"its layers are {', '.join(there)}" if there else "it has no linear layers"
    kind = model.model.config.model_type
    if config.target_modules is None:
        return (
            f"{model.name}: there are no default layers for {kind}: name them with target_modules; "
            f"{known}"
        )
    return f"{model.name} has no layers {', '.join(config.target_modules)} to adapt; {known}"


def _linear_layers(model: BaseModel) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the layers that an adapter can be put into, by their full names."""
    for name, layer in model.model.named_modules():
        if isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D":
            yield name, layer


def _default_layers(model: BaseModel) -> tuple[str, ...] | None:
    """Return attention's layers where peft knows no default, by the names that are common."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    if model.model.config.model_type in KNOWN:
        return None
    there = {name.rpartition(".")[2] for name, _ in _linear_layers(model)}
    return next((names for names in _ATTENTION if there.issuperset(names)), None)


def _forget_adapter(model: Any) -> None:
    """Remove what peft notes on a model beside its layers."""
    if hasattr(model, "peft_config"):
        del model.peft_config
