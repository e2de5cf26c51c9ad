"""The capacity model without learning: the steady state alone decides.

For the first look at a profile that has no traces yet. It knows no fluctuations, so the learned
model (`maitre.maxpack.model`) is sharper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.options import ServerOptions


@dataclass(frozen=True)
class SteadyStateModel:
    """Risk rises from 0 to 1 as the fluid fill passes `limit`, over about `width` each way."""

    limit: float = 0.94
    width: float = 0.01

    def risk(self, sets: SetSums, options: ServerOptions, rows: np.ndarray) -> np.ndarray:
        """Return the risk of each set on configuration `rows[i]`, from its fill."""
        return self.risk_of(sets, options, rows, fluid_features(sets, options, rows))

    def risk_of(
        self, sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
    ) -> np.ndarray:
        """Return what `risk` does, from the steady state of each set."""
        del sets, options, rows
        return np.asarray(expit((fluid[:, 0] - self.limit) / self.width))
