"""Turns a classifier's scores into probabilities that can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

_FEWEST_IN_RANGE = 20


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: probability = 1 / (1 + exp(-(slope * score + offset)))."""

    slope: float
    offset: float

    @classmethod
    def fit(cls, scores: np.ndarray, label: np.ndarray) -> Calibration:
        """Fit to held-out scores (log odds) and what came true.

        Platt's targets stand in for the labels, so that separable data give no infinite slope.
        """
        positive = int(label.sum())
        negative = len(label) - positive
        target = np.where(label, (positive + 1) / (positive + 2), 1 / (negative + 2))

        def loss(parameters: np.ndarray) -> float:
            z = parameters[0] * scores + parameters[1]
            return float(np.mean(np.logaddexp(0, z) - target * z))

        found = minimize(
            loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"maxiter": 2000}
        )
        return cls(float(max(found.x[0], 1e-3)), float(found.x[1]))

    def log_odds(self, scores: np.ndarray) -> np.ndarray:
        """Return the logarithm of the odds of each score."""
        return self.slope * scores + self.offset

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each score."""
        return np.asarray(expit(self.log_odds(scores)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"slope": self.slope, "offset": self.offset}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Calibration:
        """Read back `to_dict`."""
        return cls(float(document["slope"]), float(document["offset"]))


@dataclass(frozen=True)
class ResidualBand:
    """Where 90 % of the truth lies around an estimate, by how full the server is (conformal).

    `edges` divide the fluid fill into ranges; `low` and `high` are the quantiles of
    truth - estimate (in the estimate's logarithm) within each, from held-out rows.
    """

    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(
        cls,
        residuals: np.ndarray,
        fill: np.ndarray,
        edges: tuple[float, ...] = (0.8, 0.95, 1.05),
        level: float = 0.9,
    ) -> ResidualBand:
        """Fit to held-out residuals; ranges with few rows use all rows."""
        place = np.searchsorted(edges, fill)
        low, high = [], []
        for k in range(len(edges) + 1):
            mine = residuals[place == k]
            some = mine if len(mine) >= _FEWEST_IN_RANGE else residuals
            # The conformal correction: with n rows, the (n+1)-th quantile is the safe one.
            tail = (1 - level) / 2 * (1 + 1 / len(some))
            low.append(float(np.quantile(some, max(tail - 1 / len(some), 0.0))))
            high.append(float(np.quantile(some, min(1 - tail + 1 / len(some), 1.0))))
        return cls(edges, tuple(low), tuple(high))

    def around(self, estimate: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """Return the lower end, the estimate and the upper end: (rows, 3)."""
        place = np.searchsorted(self.edges, fill)
        low, high = np.array(self.low)[place], np.array(self.high)[place]
        return np.column_stack(
            [estimate + np.minimum(low, 0), estimate, estimate + np.maximum(high, 0)]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"edges": list(self.edges), "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> ResidualBand:
        """Read back `to_dict`."""
        return cls(*(tuple(document[key]) for key in ("edges", "low", "high")))
