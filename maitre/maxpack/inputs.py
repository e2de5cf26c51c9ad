"""The columns that the capacity model reads: fluid state, the set's shape, the configuration."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import FLUID_FEATURES
from maitre.maxpack.options import ServerOptions

SET_FEATURES = (
    "adapters",
    "rate_rps",
    "offered_tps",
    "mean_input_tokens",
    "mean_output_tokens",
    "rate_concentration",
    "hottest_share",
    "adapters_per_slot",
)
CONFIG_FEATURES = ("max_loras", "max_lora_rank", "kv_cache_tokens")
FEATURES = (*FLUID_FEATURES, *SET_FEATURES, *CONFIG_FEATURES)


def feature_matrix(
    sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
) -> np.ndarray:
    """Return the model's input, columns `FEATURES`: one row per set on configuration `rows[i]`."""
    adapters, rate = sets.column("adapters"), sets.column("rate_rps")
    inputs, outputs = sets.column("input_tps"), sets.column("output_tps")
    some = np.maximum(rate, 1e-12)
    slots = options.max_loras[rows]
    columns = [
        adapters,
        rate,
        inputs + outputs,
        inputs / some,
        outputs / some,
        sets.column("rate_squared") / some**2,
        sets.max_rate_rps / some,
        adapters / slots,
        slots,
        options.max_lora_rank[rows],
        options.kv_cache_tokens[rows],
    ]
    return np.column_stack([fluid, *columns])


def feature_frame(
    sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
) -> pd.DataFrame:
    """Return `feature_matrix` with named columns."""
    return pd.DataFrame(feature_matrix(sets, options, rows, fluid), columns=list(FEATURES))
