"""LoRA adapters with random weights in peft's format, to measure a server without own adapters.

They cost a server as much as tuned adapters of the same rank and layers.
"""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from maitre.errors import UserError, reading
from maitre.tuning.export import write_folder

LAYERS = ("q_proj", "v_proj")
SCALE = 0.01


def write_blank_adapter(
    folder: Path, base_model: Path, rank: int, seed: int, layers: tuple[str, ...] = LAYERS
) -> Path:
    """Write an adapter of `rank` for the Llama-like model in `base_model`, atomically.

    Raises:
        UserError: the rank is not positive, or the model's `config.json` lacks a field.
    """
    if rank < 1:
        raise UserError(f"adapter rank: expected at least 1; got {rank}")
    shapes = _layer_shapes(base_model)
    random = np.random.default_rng(seed)
    tensors = {}
    for block in range(shapes["blocks"]):
        for layer in layers:
            name = f"base_model.model.model.layers.{block}.self_attn.{layer}"
            outputs = shapes["queries"] if layer in ("q_proj",) else shapes["values"]
            for part, size in (("lora_A", (rank, shapes["hidden"])), ("lora_B", (outputs, rank))):
                values = SCALE * random.standard_normal(size)
                tensors[f"{name}.{part}.weight"] = values.astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": list(layers),
        "bias": "none",
        "inference_mode": True,
    }

    def write(into: Path) -> None:
        (into / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        safetensors.numpy.save_file(tensors, into / "adapter_model.safetensors", {"format": "pt"})

    return write_folder(folder, write)


def blank_adapters(folder: Path, base_model: Path, ranks: list[int]) -> dict[str, Path]:
    """Return one adapter per rank of the list (`rank8-000`, ...); write those that are missing."""
    made = {}
    for place, rank in enumerate(ranks):
        name = f"rank{rank}-{place:03d}"
        made[name] = folder / name
        if not made[name].is_dir():
            write_blank_adapter(made[name], base_model, rank, seed=place)
    return made


def _layer_shapes(base_model: Path) -> dict[str, int]:
    file = base_model / "config.json"
    if not file.is_file():
        raise UserError(f"{base_model}: expected a model folder; config.json is missing")
    with reading(file):
        config = json.loads(file.read_text())
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        width = int(config.get("head_dim") or hidden // heads)
        values = int(config.get("num_key_value_heads") or heads) * width
        blocks = int(config["num_hidden_layers"])
    except KeyError as error:
        raise UserError(
            f"{file}: expected a Llama-like model; the field {error.args[0]} is missing"
        ) from None
    return {"hidden": hidden, "queries": heads * width, "values": values, "blocks": blocks}
