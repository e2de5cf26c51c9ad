"""Where a tuned prompt is kept: in MLflow's model registry and in the prompt bank."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from assets.tuning.prompt_bank import bank_url, load_bank
from resources import mlflow_models
from resources.data_home import DataHome
from resources.mlflow_tracking import MlflowTracking, RegisteredVersion, TrackedRun

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.tasks import Task

MODEL_SOURCE = Path(mlflow_models.__file__).with_name("tuned_prompt.py")


def register(
    mlflow: MlflowTracking,
    run: TrackedRun,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
    check: Callable[[], None],
) -> RegisteredVersion:
    """Register the prompt as a new version of its task's model.

    `check` raises when the run is another worker's by now.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from safetensors.numpy import save_file

    card = {
        "task": task.name,
        "base_model": model.name,
        "base_model_hash": model.hash,
        "position": "suffix",
        "max_new_tokens": max(len(model.tokenizer(label).input_ids) for label in task.labels),
        "eval_accuracy": tuned.eval_accuracy,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "prompt"
        folder.mkdir()
        save_file({"prompt": tuned.prompt}, folder / "prompt.safetensors")
        (folder / "prompt.json").write_text(json.dumps(card, indent=2))
        return mlflow.register(
            run,
            name=f"tuned-prompt-{task.name}",
            python_model=MODEL_SOURCE,
            artifacts={"prompt": folder},
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", "prompt")]),
                outputs=Schema([ColSpec("string", "completion")]),
            ),
            tags={"task": task.name, "base_model_hash": model.hash},
            requirements=("torch", "transformers", "safetensors"),
            check=check,
        )


def add_to_bank(
    home: DataHome,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
    ita_cold: float | None,
    run_id: str,
    check: Callable[[], None],
) -> None:
    """Add the prompt to the base model's bank, if `check` lets it."""
    from maitre.tuning.bank_entries import bank_entry, with_output_features

    entry = bank_entry(
        model,
        task,
        tuned.prompt,
        created_at=datetime.now(UTC),
        eval_loss=tuned.eval_loss,
        eval_accuracy=tuned.eval_accuracy,
        run_id=run_id,
        ita=tuned.iterations if tuned.reached else None,
        ita_cold=ita_cold,
    )
    bank, _ = load_bank(home, model).add([entry])
    featured = with_output_features(bank, model)
    check()
    featured.save(bank_url(home, model))
