"""Fits the capacity model on simulated traces."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import catboost
import numpy as np
import pandas as pd

from maitre.maxpack.calibration import Calibration, ResidualBand
from maitre.maxpack.card import MaxpackError, ModelCard
from maitre.maxpack.inputs import FEATURES
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.split import row_identities
from maitre.maxpack.targets import (
    CLASSIFIERS,
    COLUMNS,
    REGRESSORS,
    label,
    log_shortfall,
    log_target,
)
from maitre.maxpack.traces import at_objective
from maitre.maxpack.trees import ObliviousTrees

MINIMUM_ROWS = 40
# The classifiers start from what is expected of a trace not seen; more folds make that sharper.
REGRESSOR_FOLDS = {"throughput": 5, "ttft": 5, "itl": 3}
CLASSIFIER_FOLDS = 5
# More of any of these only ever strains a server.
_WORSE_WHEN_HIGHER = (
    *("fill", "fill_time", "fill_kv", "load_at_limit"),
    *("fill_waiting", "slot_wait_ms", "queue_wait_ms", "slot_wait_p99_ms"),
)
_MONOTONE = [1 if feature in _WORSE_WHEN_HIGHER else 0 for feature in FEATURES]


def fit_model(
    traces: pd.DataFrame, random_state: int = 0, *, iterations: int = 250, threads: int = 1
) -> MaxpackModel:
    """Return a model fitted on the traces of one profile (`maitre.maxpack.traces.make_traces`).

    Configurations that ran out of memory are left out: the profile says exactly which do.

    Raises:
        MaxpackError: missing columns, fewer than `MINIMUM_ROWS` rows that ran, traces of
            several profiles, or none healthy, or none unhealthy.
    """
    missing = [c for c in (*FEATURES, *COLUMNS, "seed", "duration_s") if c not in traces.columns]
    if missing:
        raise MaxpackError(f"the traces lack the columns {', '.join(missing)}")
    ran = traces[~traces["out_of_memory"].astype(bool)].reset_index(drop=True)
    if len(ran) < MINIMUM_ROWS:
        raise MaxpackError(f"{len(ran)} traces ran to the end; a model needs {MINIMUM_ROWS}")
    card = ModelCard.of(ran, traces, random_state, iterations)
    common = {
        "iterations": iterations,
        "boosting_type": "Plain",
        "border_count": 64,
        "random_seed": random_state,
        "thread_count": threads,
        "verbose": False,
        "allow_writing_files": False,
    }
    trees, bands, unseen = _regressors(ran, common)
    # What the classifiers start from is how far throughput and latency are expected to be from what
    # is asked: that is known of each trace, not only on which side of it it is.
    guesses = {
        "starved": log_shortfall(_matrix(ran), unseen["throughput"]),
        "unhealthy": unseen["ttft"] - np.log(card.ttft_slo_ms),
    }
    calibrations, priors = {}, {}
    for name in CLASSIFIERS:
        trees[name], calibrations[name], priors[name] = _classifier(
            name, ran, guesses[name], common
        )
    return MaxpackModel(card, trees, calibrations, bands, priors, np.sort(row_identities(traces)))


def model_at_objective(
    model: MaxpackModel, traces: pd.DataFrame, ttft_slo_ms: float, *, threads: int = 1
) -> MaxpackModel:
    """Return a model of the same training rows for another time-to-first-token objective.

    The simulations are judged again, and none is run again. Returns `model` itself where it is for
    `ttft_slo_ms` already.

    Raises:
        MaxpackError: `traces` do not hold the rows that the model was trained on, or at this
            objective all rows are healthy, or all are unhealthy.
    """
    if model.card.ttft_slo_ms == ttft_slo_ms:
        return model
    known = np.isin(row_identities(traces), model.training_rows)
    if known.sum() < len(model.training_rows):
        raise MaxpackError(
            f"the traces hold {known.sum()} of the {len(model.training_rows)} rows that the model "
            "was trained on; fit a new model on these traces first"
        )
    return fit_model(
        at_objective(traces[known].reset_index(drop=True), ttft_slo_ms),
        model.card.random_state,
        iterations=model.card.iterations,
        threads=threads,
    )


def _regressors(
    ran: pd.DataFrame, common: dict[str, Any]
) -> tuple[dict[str, ObliviousTrees], dict[str, ResidualBand], dict[str, np.ndarray]]:
    """Return trees, bands, and estimates of every row by trees that have not seen it."""
    x = _matrix(ran)
    fill = x[:, FEATURES.index("fill")]
    settings = {**common, "loss_function": "RMSE", "depth": 6, "learning_rate": 0.06}
    trees, bands, unseen = {}, {}, {}
    for name in REGRESSORS:
        target, known = log_target(name, ran)
        held_out = _cross_fitted(
            catboost.CatBoostRegressor, x[known], target[known], settings, REGRESSOR_FOLDS[name]
        )
        bands[name] = ResidualBand.fit(target[known] - held_out, fill[known])
        model = catboost.CatBoostRegressor(**settings).fit(x[known], target[known])
        trees[name] = ObliviousTrees.from_catboost(model)
        unseen[name] = trees[name].raw(x)
        unseen[name][known] = held_out
    return trees, bands, unseen


def _classifier(
    name: str, ran: pd.DataFrame, guess: np.ndarray, common: dict[str, Any]
) -> tuple[ObliviousTrees, Calibration, Calibration]:
    x, truth = _matrix(ran), label(name, ran)
    if truth.all() or not truth.any():
        raise MaxpackError(
            f"all {len(ran)} traces are alike ({name} = {bool(truth[0])}); "
            "design configurations on both sides of the limit"
        )
    settings = {
        **common,
        "model_shrink_rate": 0.0,
        "depth": 5,
        "learning_rate": 0.06,
        "l2_leaf_reg": 6.0,
        "leaf_estimation_iterations": 2,
        "monotone_constraints": _MONOTONE,
    }
    # The trees correct what the guess alone says. Far from the limit they have next to nothing to
    # learn from, and an empty server must not look risky for want of data.
    prior = Calibration.fit(guess, truth)
    baseline = prior.log_odds(guess)
    # Scores of models that saw less are duller; many folds keep the calibration from that.
    held_out = _cross_fitted(
        catboost.CatBoostClassifier, x, truth, settings, CLASSIFIER_FOLDS, baseline
    )
    model = catboost.CatBoostClassifier(**settings).fit(catboost.Pool(x, truth, baseline=baseline))
    return ObliviousTrees.from_catboost(model), Calibration.fit(held_out, truth), prior


def _matrix(ran: pd.DataFrame) -> np.ndarray:
    return ran[list(FEATURES)].to_numpy(dtype=np.float64)


def _cross_fitted(
    kind: type,
    x: np.ndarray,
    target: np.ndarray,
    settings: dict[str, Any],
    folds: int,
    baseline: np.ndarray | None = None,
) -> np.ndarray:
    """Return raw predictions, baseline included, by models that have not seen the row."""
    rng = np.random.default_rng(settings["random_seed"])
    fold = rng.permutation(len(target)) % folds
    scores = np.zeros(len(target)) if baseline is None else baseline.copy()

    def predicted(k: int) -> np.ndarray | float:
        seen = fold != k
        if len(np.unique(target[seen])) == 1:
            return 0.0
        known = None if baseline is None else baseline[seen]
        model = kind(**settings).fit(catboost.Pool(x[seen], target[seen], baseline=known))
        return np.asarray(model.predict(x[~seen], prediction_type="RawFormulaVal"))

    # A fit is on one thread, so that it gives the same on any machine; folds run side by side.
    with ThreadPoolExecutor(min(folds, os.cpu_count() or 1)) as pool:
        for k, score in enumerate(pool.map(predicted, range(folds))):
            scores[fold == k] += score
    return scores
