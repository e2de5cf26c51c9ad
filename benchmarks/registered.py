"""Registered prompts against their cards: plain and chat tasks, four kinds of tokenizer.

A prompt is tuned on a tiny model and registered. A process that has MLflow and the base model, but
not this package, loads it and answers the eval split: its accuracy is to equal the card's. What
vLLM receives is to be the embeddings of the tokens that were evaluated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.report import Figure, Reach, Report, progress
from maitre.serving.proxy.embeds import PromptEmbedder, read_tuned_prompt
from maitre.tracking.store import TrackingStore
from maitre.tracking.tuned_prompt import register_tuned_prompt
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.messages import Message
from maitre.tuning.tasks import Example, Task
from maitre.tuning.tune import tune

TOKENIZERS = {
    "none": "$A",
    "BOS": "<begin> $A",
    "EOS": "$A <end>",
    "both": "<begin> $A <end>",
}
"""What each kind of tokenizer adds to a text, as its post-processor writes it."""

KINDS = ("plain", "chat")
THINGS = {"apple": "red", "rose": "red", "leaf": "green", "grass": "green", "sky": "blue sky"}
FRAMES = ("{}", "this {}", "the {} here", "is {} so", "a {} now", "one {}", "my {}", "big {}")
TEMPLATE = (
    "<begin> {% for message in messages %}{{ message['role'] }} {{ message['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
SPECIAL = ("<end>", "<begin>", "<unknown>", "system", "user", "assistant", "sort", "it")
WORDS = list(
    dict.fromkeys(
        [
            *SPECIAL,
            *THINGS,
            *(word for answer in THINGS.values() for word in answer.split()),
            *(word for frame in FRAMES for word in frame.replace("{}", "").split()),
        ]
    )
)

# Runs where the package is not: MLflow and the base model are all that it has.
_ELSEWHERE = """
import importlib.abc, json, sys, warnings
checkout, tracking, asked = sys.argv[1:]
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("assets", "resources", "pipelines", "sensors", "benchmarks"):
            raise ModuleNotFoundError(name)
sys.path = [path for path in sys.path if path and not path.startswith(checkout)
            or "site-packages" in path]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.meta_path.insert(0, Blocked())
try:
    import maitre
    raise SystemExit("this package is importable here: " + maitre.__file__)
except ModuleNotFoundError:
    pass
import mlflow, pandas as pd
mlflow.set_tracking_uri(tracking)
answers = []
for one in json.loads(open(asked).read()):
    config = {"base_model": one["base_model"], "device": "cpu"}
    model = mlflow.pyfunc.load_model(one["uri"], model_config=config)
    answers.append(model.predict(pd.DataFrame(one["rows"]))["completion"].tolist())
print("ANSWERS" + json.dumps(answers))
"""


@dataclass(frozen=True)
class Cell:
    """One kind of task and tokenizer: the card's accuracy, and the loaded version's."""

    task: str
    tokenizer: str
    card: float
    registered: float
    is_vllm_equal: bool

    @property
    def is_equal(self) -> bool:
        """Whether the loaded version and vLLM's input are what the card was measured with."""
        return self.card == self.registered and self.is_vllm_equal


def write_model(folder: Path, tokenizer: str) -> Path:
    """Write a tiny model whose tokenizer adds what its kind says."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=TOKENIZERS[tokenizer], special_tokens=[("<begin>", 1), ("<end>", 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unknown>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def task_of(kind: str) -> Task:
    """Return a task of colours; some answers have two tokens, so answers must end."""

    def example(text: str, answer: str) -> Example:
        if kind == "plain":
            return Example(text, answer)
        asked = (Message("system", "sort it"), Message("user", text))
        prompt = "\n".join(message.content for message in asked)
        return Example(prompt, answer, (*asked, Message("assistant", answer)))

    lines = [
        (place, example(frame.format(thing), answer))
        for thing, answer in THINGS.items()
        for place, frame in enumerate(FRAMES)
    ]
    return Task(
        name=f"colours-{kind}",
        description="the colour of a thing",
        instruction=None,
        metric="accuracy",
        group=None,
        train=tuple(line for place, line in lines if place % 4),
        eval=tuple(line for place, line in lines if place % 4 == 0),
    )


@dataclass(frozen=True, eq=False)
class Registered:
    """A prompt that was tuned and registered, and what it is to be compared with."""

    kind: str
    tokenizer: str
    uri: str
    base_model: Path
    task: Task
    card: float
    is_vllm_equal: bool


def cells(folder: Path, tokenizers: Iterable[str] = TOKENIZERS) -> list[Cell]:
    """Tune and register for each kind of task and tokenizer, then load and answer elsewhere."""
    store = TrackingStore(f"sqlite:///{folder}/mlflow/mlflow.db")
    made = []
    for tokenizer in tokenizers:
        base_model = write_model(folder / tokenizer, tokenizer)
        model = BaseModel.load(base_model, device="cpu", dtype="float32")
        made += [_registered(folder, store, model, base_model, kind, tokenizer) for kind in KINDS]
    answers = answer_elsewhere(store, [(one.uri, one.base_model, one.task) for one in made])
    return [
        Cell(
            one.kind,
            one.tokenizer,
            one.card,
            _accuracy(one.task, given),
            one.is_vllm_equal,
        )
        for one, given in zip(made, answers, strict=True)
    ]


def _accuracy(task: Task, answers: Sequence[str]) -> float:
    right = [answer == line.completion for answer, line in zip(answers, task.eval, strict=True)]
    return sum(right) / len(right)


def _registered(
    folder: Path,
    store: TrackingStore,
    model: BaseModel,
    base_model: Path,
    kind: str,
    tokenizer: str,
) -> Registered:
    task = task_of(kind)
    config = TuneConfig(virtual_tokens=4, learning_rate=0.03, max_iterations=100, eval_every=20)
    tuned = tune(model, task, init=None, config=config, seed=0)
    with store.run({"kind": kind, "tokenizer": tokenizer}, f"{kind} {tokenizer}") as run:
        version = register_tuned_prompt(
            store,
            run,
            model,
            task,
            tuned,
            base_model="not-here",
            tenant=None,
            check=lambda: None,
        )
    stored = read_tuned_prompt(store.download(version, folder / "downloaded") / "prompt")
    embedder = PromptEmbedder.of_folder(base_model)
    is_vllm_equal = _is_vllm_equal(embedder, stored, model, task)
    uri = f"models:/{version.name}/{version.version}"
    return Registered(kind, tokenizer, uri, base_model, task, tuned.eval_accuracy, is_vllm_equal)


def answer_elsewhere(
    store: TrackingStore, asked: Sequence[tuple[str, Path | str, Task]]
) -> list[list[str]]:
    """Answer eval splits, each by a version's URI and a base model, where this package is not."""
    document = [
        {"uri": uri, "base_model": str(base_model), "rows": rows_of(task)}
        for uri, base_model, task in asked
    ]
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "asked.json").write_text(json.dumps(document))
        checkout = str(Path(__file__).resolve().parent.parent)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAITRE_", "PYTHON"))}
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE, checkout, store.tracking_uri, f"{empty}/asked.json"],
            cwd=empty,
            env=kept,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode or "ANSWERS" not in done.stdout:
        raise RuntimeError(f"{done.stdout}\n{done.stderr}")
    answers: list[list[str]] = json.loads(done.stdout.rpartition("ANSWERS")[2])
    return answers


def rows_of(task: Task) -> list[dict[str, Any]]:
    """Return the inputs of the eval split as rows for the registered model."""
    return [
        {"prompt": line.prompt}
        if line.messages is None
        else {"messages": [asdict(message) for message in line.messages[:-1]]}
        for line in task.eval
    ]


def _is_vllm_equal(embedder: PromptEmbedder, stored: object, model: BaseModel, task: Task) -> bool:
    """Return whether vLLM gets the embeddings of the tokens that were evaluated."""
    import base64
    import io

    from maitre.tuning.export import StoredPrompt

    assert isinstance(stored, StoredPrompt)
    encoded = encode(model, task, stored.prompt.shape[0], train=()).eval
    for line, row in zip(task.eval, encoded, strict=True):
        asked = line.asked
        sent = asked if isinstance(asked, str) else [asdict(message) for message in asked]
        raw = base64.b64decode(embedder.embed(stored, sent))
        got = torch.load(io.BytesIO(raw), weights_only=True).float().numpy()
        tokens = embedder.embeddings[np.asarray(row.input_ids)]
        if not np.array_equal(got, np.concatenate([tokens, stored.prompt])):
            return False
    return True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add no options."""
    del parser


def measure(options: argparse.Namespace) -> Report:
    """Measure all cells; each is to be equal."""
    del options
    torch.set_num_threads(1)
    figures, details = [], []
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells(Path(folder)):
            name = f"{cell.task}, tokenizer adds {cell.tokenizer}"
            difference = cell.registered - cell.card
            figures += [
                Figure(f"{name}: accuracy on the card", cell.card),
                Figure(f"{name}: registered", cell.registered),
                Figure(f"{name}: equal", float(cell.is_equal), "", Reach(1, 1)),
            ]
            details.append(asdict(cell))
            progress(f"{name}: {difference:+.3f}, vLLM's input equal: {cell.is_vllm_equal}")
    return Report(figures, {"cells": details})
