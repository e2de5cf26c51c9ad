"""A registered prompt answers elsewhere as it was evaluated; champions are the better ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.registered import KINDS, TOKENIZERS, cells, rows_of, task_of, write_model
from maitre.errors import UserError
from maitre.tracking.shipped_code import ship_code
from maitre.tracking.store import RegisteredVersion, TrackingStore
from maitre.tracking.tuned_prompt import MODEL_SOURCE, promote_if_better, register_tuned_prompt
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneResult
from maitre.tuning.evaluate import evaluate
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task


@pytest.mark.slow
def test_a_registered_prompt_answers_elsewhere_as_its_card_says(tmp_path: Path) -> None:
    """Plain and chat tasks, with tokenizers that add nothing, BOS, EOS and both."""
    made = cells(tmp_path)
    assert [(c.task, c.tokenizer) for c in made] == [(k, t) for t in TOKENIZERS for k in KINDS]
    assert [cell for cell in made if not cell.is_equal] == []
    # Cards that say 0 or 1 would show nothing.
    assert any(0.1 < cell.card < 0.95 for cell in made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny", "BOS")


@pytest.fixture(scope="module")
def model(folder: Path) -> BaseModel:
    return BaseModel.load(folder, device="cpu", dtype="float32")


def result(model: BaseModel, task: Task, prompt: np.ndarray) -> TuneResult:
    found = evaluate(model, task, prompt)
    return TuneResult(
        task.name, prompt, True, 1, found.loss, found.accuracy, 1.0, ((1, 1.0, 1.0),), "target"
    )


def register(
    store: TrackingStore, model: BaseModel, task: Task, tuned: TuneResult, base_model: Path
) -> RegisteredVersion:
    with store.run({"n": str(np.random.default_rng().integers(1 << 60))}, "run") as run:
        return register_tuned_prompt(
            store,
            run,
            model,
            task,
            tuned,
            base_model=str(base_model),
            tenant=None,
            check=lambda: None,
        )


@pytest.mark.slow
def test_a_version_is_used_with_its_base_model_and_promoted_when_it_is_better(
    tmp_path: Path, folder: Path, model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    # Neither settings nor the environment are read: these are wrong.
    monkeypatch.setenv("MAITRE_BASE_MODEL", "nowhere")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db")
    task = task_of("plain")
    results = [result(model, task, random_init(model, 4, seed)) for seed in range(4)]
    results.sort(key=lambda one: (one.eval_accuracy, -one.eval_loss))
    worse, better = results[0], results[-1]
    assert (worse.eval_accuracy, -worse.eval_loss) < (better.eval_accuracy, -better.eval_loss)

    first = register(store, model, task, worse, folder)
    assert promote_if_better(store, first, model, task, worse).is_champion
    second = register(store, model, task, better, folder)
    assert promote_if_better(store, second, model, task, better).is_champion
    third = register(store, model, task, worse, folder)
    kept = promote_if_better(store, third, model, task, worse)
    assert not kept.is_champion
    assert "of version 2" in kept.why
    # On another eval split the champion is evaluated anew: what its card says does not count.
    other = replace(task, eval=task.eval[:5])
    promised = replace(result(model, other, worse.prompt), eval_accuracy=2.0)
    assert promote_if_better(store, third, model, other, promised).is_champion
    stranger = replace(model, hash="0" * 64)
    assert "another base model" in promote_if_better(store, second, stranger, task, better).why
    assert store.champion(first.name) == third

    uri = f"models:/{second.name}/{second.version}"
    loaded = mlflow.pyfunc.load_model(uri)
    answers = loaded.predict(pd.DataFrame(rows_of(task)))["completion"].tolist()
    right = [a == line.completion for a, line in zip(answers, task.eval, strict=True)]
    assert sum(right) / len(right) == better.eval_accuracy
    text = store.client().get_model_version(second.name, str(second.version)).description
    lines = text.split("```python\n")[1].split("```")[0].strip().splitlines()
    assert len(lines) == 3
    assert f"models:/{second.name}/{second.version}" in lines[1]
    with pytest.raises(UserError, match=r"needs its base model tiny: give .*model_config"):
        mlflow.pyfunc.load_model(uri, model_config={"base_model": str(tmp_path / "none")})
    other_model = write_model(tmp_path / "other", "EOS")
    with pytest.raises(UserError, match="expected tokenizer"):
        mlflow.pyfunc.load_model(uri, model_config={"base_model": str(other_model)})
    with pytest.raises(UserError, match="row 1: expected `messages`"):
        loaded.unwrap_python_model().registered.answers([{}])


def test_the_shipped_code_is_what_the_model_imports(tmp_path: Path) -> None:
    package = ship_code(MODEL_SOURCE, tmp_path)
    files = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert {"__init__.py", "errors.py", "tuning/__init__.py", "tuning/answer.py"} <= files
    assert not any(name.startswith(("cli", "workers", "tracking")) for name in files)
    assert "settings.py" not in files
    # Nothing that names the machine goes along.
    assert str(Path.cwd()) not in json.dumps([path.read_text() for path in package.rglob("*.py")])
