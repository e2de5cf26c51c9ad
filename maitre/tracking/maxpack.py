"""The capacity model as a registered model: its versions, and the champion among them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from maitre.tracking import mlflow_models
from maitre.tracking.store import RegisteredVersion, TrackedRun, TrackingStore

if TYPE_CHECKING:
    import pandas as pd

    from maitre.maxpack.model import MaxpackModel

MODEL_NAME = "maxpack"
MODEL_SOURCE = Path(mlflow_models.__file__).with_name("maxpack.py")


def register_maxpack(
    store: TrackingStore, run: TrackedRun, model: "MaxpackModel", example: "pd.DataFrame"
) -> RegisteredVersion:
    """Register the model as a new version; `example` holds rows of its features."""
    from mlflow.models import infer_signature

    from maitre.maxpack.inputs import FEATURES

    rows = example[list(FEATURES)].head(5).astype(float)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        return store.register(
            run,
            name=MODEL_NAME,
            python_model=MODEL_SOURCE,
            artifacts={"model": Path(folder) / "model"},
            signature=infer_signature(rows, model.predict(rows)),
            requirements=("catboost", "numpy", "pandas"),
            tags={
                "profile": model.card.profile,
                "profile_fingerprint": model.card.profile_fingerprint,
                "data_fingerprint": model.card.data_fingerprint,
            },
        )


_at_objective: "dict[tuple[str, float], MaxpackModel]" = {}


def champion_at(
    store: TrackingStore, ttft_slo_ms: float, read_traces: "Callable[[], pd.DataFrame]"
) -> "tuple[MaxpackModel, RegisteredVersion] | None":
    """Return the champion for this time to first token, and its version; None before the first.

    For an objective that is not the champion's own, a model is fitted on those of the traces that
    the champion was trained on. It is kept in memory, as sensors ask every minute.

    Raises:
        MaxpackError: the traces hold too few rows that the champion was trained on.
    """
    from maitre.maxpack.fit import model_at_objective

    champion = load_champion(store)
    if champion is None or champion[0].card.ttft_slo_ms == ttft_slo_ms:
        return champion
    model, version = champion
    wanted = model.card.data_fingerprint, ttft_slo_ms
    if wanted not in _at_objective:
        fitted = model_at_objective(model, read_traces(), ttft_slo_ms)
        _at_objective.clear()
        _at_objective[wanted] = fitted
    return _at_objective[wanted], version


def load_champion(store: TrackingStore) -> "tuple[MaxpackModel, RegisteredVersion] | None":
    """Return the champion, ready to predict, and its version; None before the first promotion."""
    from maitre.maxpack.model import MaxpackModel

    version = store.champion(MODEL_NAME)
    if version is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        artifacts = store.download(version, Path(folder))
        return MaxpackModel.load(artifacts / "model"), version
