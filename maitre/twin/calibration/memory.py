"""How many KV tokens fit beside the adapter slots."""

from typing import Any

import numpy as np

from maitre.twin.errors import require
from maitre.twin.profile import Memory


def fit_memory(table: Any, max_model_len: int, block_tokens: int) -> tuple[Memory, dict[str, Any]]:
    """Fit `kv_cache_tokens` to slots and slots x rank by least squares, over servers that started.

    Returns the constants and the fit: relative errors (%), and how many start-ups of the table
    (rows without `kv_cache_tokens` failed) the constants decide wrongly.
    """
    started = table["kv_cache_tokens"].notna().to_numpy()
    require(started.sum() >= 3, "calibration.memory: fewer than three servers that started")
    slots = table["max_loras"].to_numpy(float)
    ranks = table["max_lora_rank"].to_numpy(float)
    design = np.column_stack([np.ones_like(slots), -slots, -slots * ranks])
    tokens = table["kv_cache_tokens"].to_numpy(float)
    weight = 1.0 / np.sqrt(tokens[started])
    constants, *_ = np.linalg.lstsq(
        design[started] * weight[:, None], tokens[started] * weight, rcond=None
    )
    predicted = design @ constants
    error = 100 * (predicted[started] - tokens[started]) / tokens[started]
    memory = Memory(
        base_tokens=round(float(constants[0]), 1),
        per_slot_tokens=round(float(constants[1]), 3),
        per_slot_rank_tokens=round(float(constants[2]), 4),
        max_model_len=max_model_len,
        block_tokens=block_tokens,
    )
    return memory, {
        "kv_tokens_error_mean_percent": round(float(np.abs(error).mean()), 2),
        "kv_tokens_error_max_percent": round(float(np.abs(error).max()), 2),
        "servers": len(table),
        "start_ups_decided_wrongly": int(((predicted >= max_model_len) != started).sum()),
    }
