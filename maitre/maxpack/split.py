"""Which traces a capacity model was trained on, and which it can be scored on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.inputs import FEATURES

# What makes a simulation the same one: its configuration, its seed and its length.
_IDENTITY = (*FEATURES, "seed", "duration_s")


def split_traces(
    traces: pd.DataFrame, held_out: float = 0.2, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide traces at random into a training part and a held-out part; no row is in both.

    Rows of active learning (column `refined`) are never held out: they are the hard ones, and a
    score must describe configurations as they come.
    """
    plain = np.arange(len(traces))
    if "refined" in traces:
        plain = np.flatnonzero(~traces["refined"].to_numpy(dtype=bool))
    count = max(1, round(held_out * len(plain)))
    unseen = np.random.default_rng(seed).permutation(plain)[:count]
    seen = np.setdiff1d(np.arange(len(traces)), unseen)
    return (
        traces.iloc[seen].reset_index(drop=True),
        traces.iloc[np.sort(unseen)].reset_index(drop=True),
    )


def row_identities(traces: pd.DataFrame) -> np.ndarray:
    """Return one hash per trace, shape (rows,), uint64: the same simulation has the same hash.

    The results of the simulation do not count, so the hash stays the same when a trace is judged
    at another objective.
    """
    return pd.util.hash_pandas_object(
        traces[list(_IDENTITY)].astype(np.float64), index=False
    ).to_numpy()


def rows_not_trained_on(training_rows: np.ndarray, traces: pd.DataFrame) -> pd.DataFrame:
    """Return the traces that are not among `training_rows` (hashes of `row_identities`).

    Rows of active learning are left out, as in `split_traces`.
    """
    is_unseen = ~np.isin(row_identities(traces), training_rows)
    if "refined" in traces:
        is_unseen &= ~traces["refined"].to_numpy(dtype=bool)
    return traces[is_unseen].reset_index(drop=True)
