"""Evaluates boosted oblivious trees without CatBoost: the same sums, a thousandth of the overhead.

CatBoost fits; for predictions it needs 50 us a call before it looks at the first row, and a
placement asks for one small batch after another. Its trees are oblivious: all nodes of a level ask
the same question, so a tree is a list of (feature, border) pairs and a table of leaves.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maitre.maxpack.compiled import compiled

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class ObliviousTrees:
    """An ensemble of oblivious trees over float features.

    `features` and `borders` have shape (trees, depth), `leaves` (trees, 2 ** depth): bit k of a
    leaf's number says whether feature `features[tree, k]` exceeds `borders[tree, k]`. The
    prediction is `scale` times the sum of the leaves plus `bias`. Features are compared as 32-bit
    floats, as CatBoost does.
    """

    features: np.ndarray
    borders: np.ndarray
    leaves: np.ndarray
    scale: float
    bias: float

    @classmethod
    def from_catboost(cls, model: Any) -> ObliviousTrees:
        """Return the trees of a fitted CatBoost model over float features.

        Raises:
            ValueError: the model has trees of another kind.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.json"
            model.save_model(str(path), format="json")
            document = json.loads(path.read_text())
        if "oblivious_trees" not in document:
            raise ValueError("only CatBoost models of oblivious trees can be evaluated")
        trees = document["oblivious_trees"]
        depth = max((len(tree["splits"] or ()) for tree in trees), default=0)
        features = np.zeros((len(trees), depth), dtype=np.int64)
        # A level that a tree lacks asks for more than any feature has: its bit stays 0.
        borders = np.full((len(trees), depth), np.inf, dtype=np.float32)
        leaves = np.zeros((len(trees), 2**depth))
        for i, tree in enumerate(trees):
            for k, split in enumerate(tree["splits"] or ()):
                features[i, k] = split["float_feature_index"]
                borders[i, k] = split["border"]
            leaves[i, : len(tree["leaf_values"])] = tree["leaf_values"]
        scale, bias = document["scale_and_bias"]
        return cls(features, borders, leaves, float(scale), float(np.atleast_1d(bias)[0]))

    def raw(self, x: np.ndarray) -> np.ndarray:
        """Return predictions before any link function for rows of float features: (rows,)."""
        columns = np.ascontiguousarray(np.asarray(x, dtype=np.float32).T)
        sums = np.zeros(columns.shape[1])
        _add_leaves(columns, self.features, self.borders, self.leaves, sums)
        return self.scale * sums + self.bias

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the trees as named arrays, for a file."""
        return {
            f"{name}.features": self.features,
            f"{name}.borders": self.borders,
            f"{name}.leaves": self.leaves,
            f"{name}.scale_and_bias": np.array([self.scale, self.bias]),
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: dict[str, np.ndarray]) -> ObliviousTrees:
        """Read back `arrays`; `KeyError` where one is missing."""
        scale, bias = arrays[f"{name}.scale_and_bias"]
        return cls(
            arrays[f"{name}.features"],
            arrays[f"{name}.borders"],
            arrays[f"{name}.leaves"],
            float(scale),
            float(bias),
        )


@compiled
def _add_leaves(columns, features, borders, leaves, sums):
    """Add every tree's leaf to each row's sum, a block of rows at a time."""
    trees, depth = features.shape
    rows = columns.shape[1]
    place = np.zeros(_ROWS_AT_ONCE, dtype=np.int32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, rows - start)
        for tree in range(trees):
            place[:count] = 0
            for level in range(depth):
                column = columns[features[tree, level], start : start + count]
                border = borders[tree, level]
                bit = np.int32(1 << level)
                for i in range(count):
                    place[i] += bit if column[i] > border else np.int32(0)
            for i in range(count):
                sums[start + i] += leaves[tree, place[i]]
