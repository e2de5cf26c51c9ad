"""The learned capacity model: what a server sustains, in microseconds.

CatBoost regressors and classifiers correct the fluid steady state (`maitre.maxpack.fluid`) for
what averages do not know: fluctuations of load and lengths, waiting for slots, preemption.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd

from maitre.maxpack.calibration import Calibration, ResidualBand
from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.inputs import FEATURES, feature_matrix
from maitre.maxpack.options import ServerOptions
from maitre.maxpack.scores import MaxpackScores, macro_f1, signed_error, symmetric_error

MINIMUM_ROWS = 40
FOLDS = 3
FORMAT = 2
_REGRESSORS = ("throughput", "ttft", "itl")
_CLASSIFIERS = ("starved", "unhealthy")
_TARGET_COLUMNS = (
    "offered_tps",
    "throughput_tps",
    "starved",
    "healthy",
    "ttft_p99_ms",
    "itl_mean_ms",
    "out_of_memory",
)
# More of either only ever strains a server.
_WORSE_WHEN_HIGHER = ("fill", "fill_time", "fill_kv")


class MaxpackError(ValueError):
    """Traces that no model can be fitted on, or a folder that holds no model."""


@dataclass(frozen=True)
class ModelCard:
    """Where a model comes from: compare `profile_fingerprint` to know whether it is stale."""

    profile: str
    profile_fingerprint: str
    ttft_slo_ms: float
    data_fingerprint: str
    rows: int
    max_adapters: int
    random_state: int
    format: int = FORMAT


@dataclass(frozen=True)
class MaxpackModel:
    """Predicts throughput, latency and the risk of an unhealthy server for sets of adapters."""

    card: ModelCard
    regressors: dict[str, catboost.CatBoostRegressor]
    classifiers: dict[str, catboost.CatBoostClassifier]
    calibrations: dict[str, Calibration]
    bands: dict[str, ResidualBand]
    priors: dict[str, Calibration]

    @classmethod
    def fit(
        cls, traces: pd.DataFrame, random_state: int = 0, *, iterations: int = 250, threads: int = 1
    ) -> MaxpackModel:
        """Fit on the traces of one profile (`maitre.maxpack.design.make_traces`).

        Configurations that ran out of memory teach nothing but that, which the profile says
        exactly; they are left out.

        Raises:
            MaxpackError: missing columns, fewer than `MINIMUM_ROWS` rows that ran, traces of
                several profiles, or none healthy, or none unhealthy.
        """
        missing = [c for c in (*FEATURES, *_TARGET_COLUMNS) if c not in traces.columns]
        if missing:
            raise MaxpackError(f"the traces lack the columns {', '.join(missing)}")
        ran = traces[~traces["out_of_memory"].astype(bool)].reset_index(drop=True)
        if len(ran) < MINIMUM_ROWS:
            raise MaxpackError(f"{len(ran)} traces ran to the end; a model needs {MINIMUM_ROWS}")
        card = _card(ran, traces, random_state)
        x = ran[list(FEATURES)].to_numpy(dtype=np.float64)
        common = {
            "iterations": iterations,
            "boosting_type": "Plain",
            "border_count": 64,
            "random_seed": random_state,
            "thread_count": threads,
            "verbose": False,
            "allow_writing_files": False,
        }
        fill = x[:, FEATURES.index("fill")]
        regressors, bands = {}, {}
        for name in _REGRESSORS:
            target, known = _log_target(name, ran)
            settings = {**common, "loss_function": "RMSE", "depth": 6, "learning_rate": 0.06}
            held_out = _cross_fitted(
                catboost.CatBoostRegressor, x[known], target[known], settings, random_state
            )
            bands[name] = ResidualBand.fit(target[known] - held_out, fill[known])
            regressors[name] = catboost.CatBoostRegressor(**settings).fit(x[known], target[known])
        classifiers, calibrations, priors = {}, {}, {}
        for name in _CLASSIFIERS:
            label = _label(name, ran)
            if label.all() or not label.any():
                raise MaxpackError(
                    f"all {len(ran)} traces are alike ({name} = {bool(label[0])}); "
                    "design configurations on both sides of the limit"
                )
            settings = {
                **common,
                "model_shrink_rate": 0.0,
                "depth": 5,
                "learning_rate": 0.06,
                "l2_leaf_reg": 6.0,
                "leaf_estimation_iterations": 2,
                "monotone_constraints": _monotone(),
            }
            # The trees correct what the fill alone says. Far from the limit they have next to
            # nothing to learn from, and an empty server must not look risky for want of data.
            priors[name] = Calibration.fit(_log_fill(x), label)
            baseline = priors[name].log_odds(_log_fill(x))
            held_out = _cross_fitted(
                catboost.CatBoostClassifier, x, label, settings, random_state, baseline
            )
            calibrations[name] = Calibration.fit(held_out, label)
            classifiers[name] = catboost.CatBoostClassifier(**settings).fit(
                catboost.Pool(x, label, baseline=baseline)
            )
        return cls(card, regressors, classifiers, calibrations, bands, priors)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predictions for rows with the columns `maitre.maxpack.inputs.FEATURES`.

        Columns: `offered_tps`, `throughput_tps` with `throughput_p05_tps` and
        `throughput_p95_tps`, `ttft_p99_ms` (the worst adapter's) with `ttft_p99_high_ms`,
        `itl_mean_ms`, `starved_probability` (the papers' rule), `risk` (that the server or one of
        its adapters is unhealthy), `out_of_memory`.
        """
        x = frame[list(FEATURES)].to_numpy(dtype=np.float64)
        oom = x[:, FEATURES.index("kv_cache_tokens")] <= 0
        throughput = self._band("throughput", x) * _reference_tps(x)[:, None]
        ttft, itl = self._band("ttft", x), self._band("itl", x)
        offered = x[:, FEATURES.index("offered_tps")]
        columns = {
            "offered_tps": offered,
            "throughput_tps": np.minimum(throughput[:, 1], 1.05 * offered),
            "throughput_p05_tps": throughput[:, 0],
            "throughput_p95_tps": throughput[:, 2],
            "ttft_p99_ms": ttft[:, 1],
            "ttft_p99_high_ms": ttft[:, 2],
            "itl_mean_ms": itl[:, 1],
            "starved_probability": self._probability("starved", x),
            "risk": self._probability("unhealthy", x),
        }
        result = pd.DataFrame(columns, index=frame.index)
        result.loc[oom, ["throughput_tps", "throughput_p05_tps", "throughput_p95_tps"]] = 0.0
        result.loc[oom, ["starved_probability", "risk"]] = 1.0
        return result.assign(out_of_memory=oom)

    def predict_one(self, features: np.ndarray) -> tuple[float, float]:
        """Throughput (tokens/s) and risk of one configuration: `features` has shape (1, FEATURES).

        `predict` without its frame and its other columns, for callers in a hurry.
        """
        throughput = np.exp(self.regressors["throughput"].predict(features)[0])
        reference = float(_reference_tps(features)[0])
        return float(throughput) * reference, float(self._probability("unhealthy", features)[0])

    def risk(self, sets: SetSums, options: ServerOptions, rows: np.ndarray) -> np.ndarray:
        """Probability that each set is unhealthy on configuration `rows[i]` of the options."""
        fluid = fluid_features(sets, options, rows)
        x = feature_matrix(sets, options, rows, fluid)
        return np.where(options.kv_cache_tokens[rows] > 0, self._probability("unhealthy", x), 1.0)

    def save(self, folder: str | Path) -> None:
        """Write the model as CatBoost files and `card.json`; the folder appears whole or not."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            made.mkdir()
            for name, model in {**self.regressors, **self.classifiers}.items():
                model.save_model(str(made / f"{name}.cbm"))
            document = {
                "card": asdict(self.card),
                "calibrations": {k: v.to_dict() for k, v in self.calibrations.items()},
                "priors": {k: v.to_dict() for k, v in self.priors.items()},
                "bands": {k: v.to_dict() for k, v in self.bands.items()},
            }
            (made / "card.json").write_text(json.dumps(document, indent=2))
            if folder.exists():
                os.replace(folder, Path(temporary) / "old")
            os.replace(made, folder)

    @classmethod
    def load(cls, folder: str | Path) -> MaxpackModel:
        """Read a model back.

        Raises:
            MaxpackError: a file is missing or of another format.
        """
        folder = Path(folder)
        names = [f"{name}.cbm" for name in (*_REGRESSORS, *_CLASSIFIERS)]
        missing = [name for name in ("card.json", *names) if not (folder / name).is_file()]
        if missing:
            raise MaxpackError(f"{folder} holds no capacity model: {', '.join(missing)} missing")
        document = json.loads((folder / "card.json").read_text())
        if document["card"].get("format") != FORMAT:
            raise MaxpackError(f"{folder} is of another format; fit the model again")
        return cls(
            ModelCard(**document["card"]),
            {name: _loaded(catboost.CatBoostRegressor(), folder, name) for name in _REGRESSORS},
            {name: _loaded(catboost.CatBoostClassifier(), folder, name) for name in _CLASSIFIERS},
            {k: Calibration.from_dict(v) for k, v in document["calibrations"].items()},
            {k: ResidualBand.from_dict(v) for k, v in document["bands"].items()},
            {k: Calibration.from_dict(v) for k, v in document["priors"].items()},
        )

    def _band(self, name: str, x: np.ndarray) -> np.ndarray:
        """The 5 % quantile, the estimate and the 95 % quantile: (rows, 3)."""
        middle = np.asarray(self.regressors[name].predict(x))
        return np.exp(self.bands[name].around(middle, x[:, FEATURES.index("fill")]))

    def _probability(self, name: str, x: np.ndarray) -> np.ndarray:
        raw = np.asarray(self.classifiers[name].predict(x, prediction_type="RawFormulaVal"))
        return self.calibrations[name].probability(raw + self.priors[name].log_odds(_log_fill(x)))


def split_traces(
    traces: pd.DataFrame, held_out: float = 0.2, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide traces into a training and a held-out part, at random; no row is in both."""
    order = np.random.default_rng(seed).permutation(len(traces))
    count = max(1, round(held_out * len(traces)))
    return (
        traces.iloc[np.sort(order[count:])].reset_index(drop=True),
        traces.iloc[np.sort(order[:count])].reset_index(drop=True),
    )


def evaluate(model: MaxpackModel, frame: pd.DataFrame) -> MaxpackScores:
    """Score a model on traces it has not seen; rows that ran out of memory are left out."""
    ran = frame[~frame["out_of_memory"].astype(bool)]
    predicted = model.predict(ran)
    healthy = ran["healthy"].to_numpy(dtype=bool)
    risk = predicted["risk"].to_numpy()
    _, has_ttft = _log_target("ttft", ran)
    _, has_itl = _log_target("itl", ran)
    throughput = predicted["throughput_tps"].to_numpy(), ran["throughput_tps"].to_numpy()
    return MaxpackScores(
        rows=len(ran),
        throughput_error=symmetric_error(*throughput),
        throughput_bias=signed_error(*throughput),
        ttft_error=symmetric_error(
            predicted["ttft_p99_ms"].to_numpy()[has_ttft], ran["ttft_p99_ms"].to_numpy()[has_ttft]
        ),
        itl_error=symmetric_error(
            predicted["itl_mean_ms"].to_numpy()[has_itl], ran["itl_mean_ms"].to_numpy()[has_itl]
        ),
        starvation_macro_f1=macro_f1(
            predicted["starved_probability"].to_numpy() > 0.5, ran["starved"].to_numpy(dtype=bool)
        ),
        health_macro_f1=macro_f1(risk > 0.5, ~healthy),
        health_brier=float(np.mean((risk - ~healthy) ** 2)),
    )


def fingerprint_of(traces: pd.DataFrame) -> str:
    """A hash of the traces' content: the same rows give the same text."""
    digest = hashlib.sha256(",".join(traces.columns).encode())
    digest.update(pd.util.hash_pandas_object(traces, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _log_fill(x: np.ndarray) -> np.ndarray:
    """Logarithm of the fluid fill, within reason."""
    return np.log(np.clip(x[:, FEATURES.index("fill")], 0.2, 3.0))


def _reference_tps(x: np.ndarray) -> np.ndarray:
    """What a server without fluctuations would deliver: the offered load, or its fill's part."""
    fill = x[:, FEATURES.index("fill")]
    return x[:, FEATURES.index("offered_tps")] / np.maximum(fill, 1.0)


def _log_target(name: str, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm that a regressor learns, and the rows in which it is known."""
    if name == "throughput":
        reference = _reference_tps(frame[list(FEATURES)].to_numpy(dtype=np.float64))
        ratio = frame["throughput_tps"].to_numpy(dtype=np.float64) / np.maximum(reference, 1e-9)
    else:
        column = {"ttft": "ttft_p99_ms", "itl": "itl_mean_ms"}[name]
        ratio = frame[column].to_numpy(dtype=np.float64)
    known = np.isfinite(ratio) & (ratio > 0)
    return np.log(np.where(known, ratio, 1.0)), known


def _label(name: str, frame: pd.DataFrame) -> np.ndarray:
    if name == "starved":
        return frame["starved"].to_numpy(dtype=bool)
    return ~frame["healthy"].to_numpy(dtype=bool)


def _monotone() -> list[int]:
    return [1 if name in _WORSE_WHEN_HIGHER else 0 for name in FEATURES]


def _cross_fitted(
    kind: type,
    x: np.ndarray,
    target: np.ndarray,
    settings: dict[str, Any],
    seed: int,
    baseline: np.ndarray | None = None,
) -> np.ndarray:
    """Raw predictions for each row, baseline included, by a model that has not seen it."""
    fold = np.random.default_rng(seed).permutation(len(target)) % FOLDS
    scores = np.zeros(len(target)) if baseline is None else baseline.copy()
    for k in range(FOLDS):
        seen = fold != k
        if len(np.unique(target[seen])) == 1:
            continue
        known = None if baseline is None else baseline[seen]
        pool = catboost.Pool(x[seen], target[seen], baseline=known)
        model = kind(**settings).fit(pool)
        scores[~seen] += model.predict(x[~seen], prediction_type="RawFormulaVal")
    return scores


def _loaded(model: Any, folder: Path, name: str) -> Any:
    try:
        return model.load_model(str(folder / f"{name}.cbm"))
    except catboost.CatBoostError as error:
        raise MaxpackError(f"{folder / name}.cbm cannot be read: {error}") from error


def _card(ran: pd.DataFrame, traces: pd.DataFrame, random_state: int) -> ModelCard:
    single = {}
    for column in ("profile", "profile_fingerprint", "ttft_slo_ms"):
        values = ran[column].unique()
        if len(values) != 1:
            raise MaxpackError(f"the traces mix several values of {column}: {list(values)[:3]}")
        single[column] = values[0]
    return ModelCard(
        profile=str(single["profile"]),
        profile_fingerprint=str(single["profile_fingerprint"]),
        ttft_slo_ms=float(single["ttft_slo_ms"]),
        data_fingerprint=fingerprint_of(traces),
        rows=len(ran),
        max_adapters=int(ran["adapters"].max()),
        random_state=random_state,
    )
