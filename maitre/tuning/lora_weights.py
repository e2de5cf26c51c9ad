"""A LoRA adapter's weights on a base model, as one vector; and peft's format of them."""

from collections.abc import Sequence
from typing import Any

import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig, TuningInputError

_ADAPTER = "maitre"


class LoraWeights:
    """The adapter put into a base model's layers; `remove` takes it out again.

    `values` are all its weights end to end, float32.
    """

    def __init__(self, model: BaseModel, config: LoraConfig, seed: int) -> None:
        """Draw the adapter's first matrices by `seed`.

        Raises `TuningInputError` when the model has none of the layers.
        """
        from peft import get_peft_model

        self._base = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # peft draws from the global generator
            try:
                wrapped = get_peft_model(model.model, peft_config(config), adapter_name=_ADAPTER)
            except ValueError as error:
                names = ", ".join(config.target_modules)
                raise TuningInputError(f"{model.name} has no layers {names} to adapt") from error
        self._wrapped: Any = wrapped
        self.parameters = [p for p in wrapped.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()

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
        """The weights by peft's names."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._wrapped, adapter_name=_ADAPTER)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def remove(self) -> None:
        """Remove the adapter from the base model."""
        self._wrapped.unload()
        self._base.model.requires_grad_(False)
        if hasattr(self._base.model, "peft_config"):
            del self._base.model.peft_config


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors end to end, as one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def peft_config(config: LoraConfig, base_model: str | None = None) -> Any:
    """The adapter's settings as peft writes them."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        base_model_name_or_path=base_model,
    )
