"""Decide whether a new capacity model becomes champion, and whether the champion is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from maitre.maxpack.evaluate import evaluate
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.scores import MaxpackScores
from maitre.maxpack.split import rows_not_trained_on

# Placement lives on the risk; a little throughput may be given for it, not more.
THROUGHPUT_TOLERANCE = 1.1
# Scores of fewer rows decide nothing.
MINIMUM_COMPARED_ROWS = 20
# What arXiv 2602.24044 reports for its own model: symmetric error (%) and macro-F1.
LARGEST_THROUGHPUT_ERROR = 8.0
LEAST_STARVATION_F1 = 0.9


@dataclass(frozen=True)
class Promotion:
    """Whether the challenger becomes champion, why, and the scores that were compared.

    `compared` and `champion` are scores on the rows that neither model was trained on; None where
    there is no champion to compare with.
    """

    promoted: bool
    reason: str
    compared: MaxpackScores | None = None
    champion: MaxpackScores | None = None


def compare_with_champion(
    challenger: MaxpackModel, champion: MaxpackModel | None, held_out: pd.DataFrame
) -> Promotion:
    """Compare two models on the rows of `held_out` that neither was trained on.

    `held_out` holds rows that the challenger was not trained on. The challenger is promoted where
    a comparison says nothing: there is no champion, the champion is of another profile or
    objective, or it was trained on (nearly) all rows that are left.
    """
    if champion is None:
        return Promotion(True, "there is no champion yet")
    for fact in ("profile_fingerprint", "ttft_slo_ms"):
        was, now = getattr(champion.card, fact), getattr(challenger.card, fact)
        if was != now:
            return Promotion(True, f"the champion has another {fact}: {was}, not {now}")
    unseen = rows_not_trained_on(champion.training_rows, held_out)
    ran = _count_started(unseen)
    if ran < MINIMUM_COMPARED_ROWS:
        return Promotion(
            True,
            f"the champion was trained on the held-out rows: {ran} are left to compare on, "
            f"{MINIMUM_COMPARED_ROWS} are needed",
        )
    new, old = evaluate(challenger, unseen), evaluate(champion, unseen)
    promoted = is_better(new, old)
    verdict = "is better" if promoted else "is not better"
    return Promotion(promoted, f"{verdict} on {len(unseen)} rows that neither has seen", new, old)


@dataclass(frozen=True)
class ChampionQuality:
    """Whether the champion predicts well enough, and why; no scores where too few rows are left."""

    passed: bool
    reason: str
    scores: MaxpackScores | None = None


def judge_champion(champion: MaxpackModel, traces: pd.DataFrame) -> ChampionQuality:
    """Score the champion on the traces that it was not trained on."""
    unseen = rows_not_trained_on(champion.training_rows, traces)
    ran = _count_started(unseen)
    if ran < MINIMUM_COMPARED_ROWS:
        return ChampionQuality(
            False,
            f"the champion was trained on all but {ran} of the traces, {MINIMUM_COMPARED_ROWS} "
            "are needed; simulate more traces",
        )
    scores = evaluate(champion, unseen)
    return ChampionQuality(
        scores.throughput_error < LARGEST_THROUGHPUT_ERROR
        and scores.starvation_macro_f1 > LEAST_STARVATION_F1,
        f"throughput error {scores.throughput_error:.2f} %, starvation macro-F1 "
        f"{scores.starvation_macro_f1:.3f} on {ran} traces that the champion was not trained on",
        scores,
    )


def _count_started(traces: pd.DataFrame) -> int:
    """Return how many of the simulated servers started."""
    return int((~traces["out_of_memory"].astype(bool)).sum())


def is_better(challenger: MaxpackScores, champion: MaxpackScores) -> bool:
    """Return whether the challenger's risk is strictly better and its throughput no worse.

    Both must have been scored on the same configurations, and neither trained on them. The risk is
    compared by Brier score; the throughput error may grow by a tenth at most.
    """
    return (
        challenger.health_brier < champion.health_brier
        and challenger.throughput_error <= THROUGHPUT_TOLERANCE * champion.throughput_error
    )
