"""How far a capacity model is from the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class MaxpackScores:
    """Scores on configurations that the model has not seen.

    Errors in percent, `100 mean(|a-b| / (|a|+|b|))` (the measure of arXiv 2508.08343, without the
    usual factor 2); `starvation_macro_f1` for the papers' rule and `health_macro_f1` for
    health with latency, both at a probability of one half; `health_brier` and `starvation_brier`
    the mean squared errors of the two probabilities.
    """

    rows: int
    throughput_error: float
    throughput_bias: float
    ttft_error: float
    itl_error: float
    starvation_macro_f1: float
    health_macro_f1: float
    health_brier: float
    starvation_brier: float

    def to_dict(self) -> dict[str, float]:
        """Return the scores by name."""
        return asdict(self)


def symmetric_error(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return `100 mean(|a-b| / (|a|+|b|))`; two zeros count as no error. NaN without pairs."""
    if not len(predicted):
        return float("nan")
    total = np.abs(predicted) + np.abs(actual)
    return float(100 * np.mean(np.abs(predicted - actual) / np.where(total > 0, total, 1.0)))


def signed_error(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the error with its sign: positive where the prediction is too high."""
    if not len(predicted):
        return float("nan")
    total = np.abs(predicted) + np.abs(actual)
    return float(100 * np.mean((predicted - actual) / np.where(total > 0, total, 1.0)))


def macro_f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the mean F1 of the two classes; a class that neither side has counts as perfect."""
    scores = []
    for label in (False, True):
        p, a = predicted == label, actual == label
        wrong = np.sum(p != a)
        hits = np.sum(p & a)
        scores.append(1.0 if hits + wrong == 0 else 2 * hits / (2 * hits + wrong))
    return float(np.mean(scores))


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities in ranges: their mean, how often it came true, and how many rows."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]

    def to_dict(self) -> dict[str, list[float]]:
        """Return the ranges by column."""
        return {name: list(values) for name, values in asdict(self).items()}


def reliability(
    probability: np.ndarray,
    truth: np.ndarray,
    edges: tuple[float, ...] = (0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0),
) -> Reliability:
    """Return the reliability of predicted probabilities; ranges without rows are left out."""
    place = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, len(edges) - 2)
    used = np.unique(place)
    return Reliability(
        tuple(float(probability[place == k].mean()) for k in used),
        tuple(float(truth[place == k].mean()) for k in used),
        tuple(int((place == k).sum()) for k in used),
    )
