"""Predicts how many iterations a start needs, from its loss before and after a few steps.

A low first loss is not fast convergence, so a start is judged by predicted iterations to accuracy
(ITA). The predictor is a linear one, fitted by ridge regression towards shipped coefficients: with
a short history it says what the shipped ones say, with a long one what the bank has seen itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

PRIOR_RECORDS = 30.0
"""How many records of a history weigh as much as the shipped coefficients."""


@dataclass(frozen=True)
class StartRecord:
    """A start that was tuned from, what was known of it before, and how long it took.

    Losses are in nats: `start_loss` on samples of the task, `probed_loss` on the same after a few
    probing steps (`None` where none were taken), `entropy` of the task's labels. A run that ended
    before its target counts with the iterations it took. `kind` is the candidate's; `chosen` is
    false for a run that was only made to compare. `tenant` is to whom the record is private.
    """

    task: str
    start: str
    start_loss: float
    probed_loss: float | None
    entropy: float
    iterations: float
    kind: str = "bank"
    chosen: bool = True
    tenant: str | None = None


@dataclass(frozen=True)
class ItaModel:
    """`log(1 + ITA)` as a linear function of what is known of a start, with and without a probe.

    `unprobed`: constant, log(1 + start loss / entropy). `probed`: constant, the same, and
    log(1 + probed loss / entropy).
    """

    unprobed: tuple[float, float]
    probed: tuple[float, float, float]

    def predict(self, start_loss: float, probed_loss: float | None, entropy: float) -> float:
        """Return the iterations to accuracy of a start; infinite where a loss is not a number."""
        row = _features(start_loss, probed_loss, entropy)
        if not np.isfinite(row).all():
            return math.inf
        weights = self.unprobed if probed_loss is None else self.probed
        return float(np.expm1(np.clip(row @ np.array(weights), 0.0, 10.0)))

    def refitted(self, history: Sequence[StartRecord]) -> "ItaModel":
        """Return the model fitted again with a history; the same model for an empty history."""
        unprobed = _ridge(self.unprobed, [_without_probe(record) for record in history])
        probed = _ridge(self.probed, [r for r in history if r.probed_loss is not None])
        return ItaModel(
            unprobed=(unprobed[0], unprobed[1]),
            probed=(probed[0], probed[1], probed[2]),
        )


SHIPPED = ItaModel(unprobed=(1.03, 0.87), probed=(2.15, 0.24, 0.31))
"""Fitted to starts of example tasks on SmolLM2-135M; docs/bank.md says how well it does."""


def _without_probe(record: StartRecord) -> StartRecord:
    return replace(record, probed_loss=None)


def _features(start_loss: float, probed_loss: float | None, entropy: float) -> np.ndarray:
    scale = max(entropy, 0.1)
    known = [1.0, math.log1p(max(start_loss, 0.0) / scale)]
    if probed_loss is not None:
        known.append(math.log1p(max(probed_loss, 0.0) / scale))
    return np.array(known)


def _ridge(prior: Sequence[float], records: Sequence[StartRecord]) -> tuple[float, ...]:
    """Return least squares on the records, drawn towards the prior by `PRIOR_RECORDS` records."""
    weights = np.array(prior)
    if not records:
        return tuple(prior)
    rows = np.stack([_features(r.start_loss, r.probed_loss, r.entropy) for r in records])
    wanted = np.log1p([record.iterations for record in records])
    usable = np.isfinite(rows).all(axis=1)
    rows, wanted = rows[usable], wanted[usable]
    gram = rows.T @ rows + PRIOR_RECORDS * np.eye(len(weights))
    return tuple((weights + np.linalg.solve(gram, rows.T @ (wanted - rows @ weights))).tolist())
