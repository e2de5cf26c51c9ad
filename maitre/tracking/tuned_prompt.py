"""A tuned prompt as a registered model: one registered model per task, one version per tuning."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from maitre.tenants import DEFAULT_TENANT, TENANT_TAG, registered_name
from maitre.tracking import mlflow_models
from maitre.tracking.store import RegisteredVersion, TrackedRun, TrackingStore

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.tasks import Task

MODEL_SOURCE = Path(mlflow_models.__file__).with_name("tuned_prompt.py")


def register_tuned_prompt(
    store: TrackingStore,
    run: TrackedRun,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
    *,
    tenant: str | None,
    check: Callable[[], None],
) -> RegisteredVersion:
    """Register the prompt as a new version of the model of its task and tenant (None: public).

    `check` raises when another worker has taken over the run; nothing is registered then.
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
        "tenant": tenant,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "prompt"
        folder.mkdir()
        save_file({"prompt": tuned.prompt}, folder / "prompt.safetensors")
        (folder / "prompt.json").write_text(json.dumps(card, indent=2))
        return store.register(
            run,
            name=registered_name(f"tuned-prompt-{task.name}", tenant),
            python_model=MODEL_SOURCE,
            artifacts={"prompt": folder},
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", "prompt")]),
                outputs=Schema([ColSpec("string", "completion")]),
            ),
            tags={
                "task": task.name,
                "base_model_hash": model.hash,
                TENANT_TAG: tenant or DEFAULT_TENANT,
            },
            requirements=("torch", "transformers", "safetensors"),
            check=check,
        )
