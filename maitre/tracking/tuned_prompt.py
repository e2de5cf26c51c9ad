"""A tuned prompt as a registered model: one registered model per task, one version per tuning."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maitre.tenants import DEFAULT_TENANT, TENANT_TAG, registered_name
from maitre.tracking import mlflow_models
from maitre.tracking.shipped_code import ship_code
from maitre.tracking.store import RegisteredVersion, TrackedRun, TrackingStore

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneResult
    from maitre.tuning.prompt_card import Inputs, PromptCard
    from maitre.tuning.tasks import Task

MODEL_SOURCE = Path(mlflow_models.__file__).with_name("tuned_prompt.py")


@dataclass(frozen=True)
class Promotion:
    """Whether a version became the champion, and why."""

    is_champion: bool
    why: str


def register_tuned_prompt(
    store: TrackingStore,
    run: TrackedRun,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
    *,
    base_model: str,
    tenant: str | None,
    check: Callable[[], None],
) -> RegisteredVersion:
    """Register the prompt as a new version of the model of its task and tenant (None: public).

    `base_model` is the folder or hub id that the version loads unless its user names another.
    `check` raises when another worker has taken over the run; nothing is registered then.
    """
    from maitre.tuning.prompt_card import write_prompt

    card = card_of(model, task, tuned, tenant)
    name = registered_name(f"tuned-prompt-{task.name}", tenant)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "prompt"
        folder.mkdir()
        write_prompt(folder, card, tuned.prompt)
        return store.register(
            run,
            name=name,
            python_model=MODEL_SOURCE,
            artifacts={"prompt": folder},
            signature=_signature(card.inputs),
            tags={
                "task": task.name,
                "base_model_hash": model.hash,
                "eval_fingerprint": str(card.eval_fingerprint),
                TENANT_TAG: tenant or DEFAULT_TENANT,
            },
            requirements=("torch", "transformers", "safetensors", "numpy", "pandas"),
            code=ship_code(MODEL_SOURCE, Path(temporary) / "code"),
            model_config={"base_model": base_model, "device": "auto", "dtype": card.dtype},
            description=lambda version: _description(card, name, version),
            check=check,
        )


def promote_if_better(
    store: TrackingStore,
    version: RegisteredVersion,
    model: "BaseModel",
    task: "Task",
    tuned: "TuneResult",
) -> Promotion:
    """Give the version the alias `champion` where it is better than the present champion.

    Both are measured on the task's present eval split: a champion of another split is evaluated on
    it. A champion of another base model cannot be, and stays.
    """
    from maitre.errors import UserError
    from maitre.tuning.evaluate import evaluate
    from maitre.tuning.prompt_card import read_prompt

    present = store.champion(version.name)
    if present is None:
        store.promote(version)
        return Promotion(True, "the first version")
    if present.version == version.version:
        return Promotion(True, "it is the champion already")
    with tempfile.TemporaryDirectory() as folder:
        try:
            card, prompt = read_prompt(store.download(present, Path(folder)) / "prompt")
        except UserError as error:
            return Promotion(False, f"version {present.version} cannot be read: {error}")
    if (card.base_model_hash, card.tokenizer_hash or model.tokenizer_hash) != (
        model.hash,
        model.tokenizer_hash,
    ):
        why = f"version {present.version} is of another base model, {card.base_model}"
        return Promotion(False, why)
    loss, accuracy = card.eval_loss, card.eval_accuracy
    is_same_split = card.eval_fingerprint == task.eval_fingerprint()
    if not is_same_split or loss is None or accuracy is None:
        measured = evaluate(model, task, prompt, card.position)
        loss, accuracy = measured.loss, measured.accuracy
    new, old = (tuned.eval_accuracy, -tuned.eval_loss), (accuracy, -loss)
    is_better = new[::-1] > old[::-1] if task.metric == "loss" else new > old
    if is_better:
        store.promote(version)
    figures = (
        f"accuracy {tuned.eval_accuracy:.3f} and loss {tuned.eval_loss:.3f} against "
        f"{accuracy:.3f} and {loss:.3f} of version {present.version}"
    )
    return Promotion(is_better, figures)


def card_of(
    model: "BaseModel", task: "Task", tuned: "TuneResult", tenant: str | None
) -> "PromptCard":
    """Return the card of a prompt: which request makes it answer as in its evaluation."""
    from maitre.tuning.prompt_card import PromptCard, chat_template_hash
    from maitre.tuning.prompt_tokens import PromptTokens

    inputs = _inputs(task)
    return PromptCard(
        task=task.name,
        base_model=model.name,
        base_model_hash=model.hash,
        position="suffix",
        max_new_tokens=PromptTokens(model.tokenizer).longest_answer(task.labels),
        eval_accuracy=tuned.eval_accuracy,
        eval_loss=tuned.eval_loss,
        eval_fingerprint=task.eval_fingerprint(),
        task_fingerprint=task.fingerprint(),
        metric=task.metric,
        inputs=inputs,
        fold_system=task.fold_system,
        tokenizer_hash=model.tokenizer_hash,
        chat_template_hash=None if inputs == "text" else chat_template_hash(model.tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        tenant=tenant,
    )


def _inputs(task: "Task") -> "Inputs":
    kinds = {example.messages is not None for example in (*task.train, *task.eval)}
    return "mixed" if len(kinds) == 2 else "chat" if True in kinds else "text"


def _signature(inputs: "Inputs") -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    required = inputs != "mixed"
    columns = [ColSpec("string", "prompt", required=required)]
    messages = [ColSpec(AnyType(), "messages", required=required)]
    return ModelSignature(
        inputs=Schema({"text": columns, "chat": messages, "mixed": columns + messages}[inputs]),
        outputs=Schema([ColSpec("string", "completion")]),
    )


def _description(card: "PromptCard", name: str, version: int) -> str:
    """Return the model card: what the prompt is, and in three lines how to load it."""
    asked: dict[str, Any] = {"prompt": "..."}
    if card.inputs != "text":
        asked = {"messages": [{"role": "user", "content": "..."}]}
    return (
        f"A soft prompt for `{card.base_model}`, tuned for the task `{card.task}`: "
        f"eval accuracy {card.eval_accuracy or 0.0:.3f}. "
        "It needs MLflow and the base model only.\n\n"
        "```python\n"
        "import mlflow, pandas as pd\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}/{version}", '
        'model_config={"base_model": "FOLDER_OR_HUB_ID"})\n'
        f"model.predict(pd.DataFrame([{asked}]))\n"
        "```\n"
    )
