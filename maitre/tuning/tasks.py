"""A tuning task: what it asks, and its train and eval examples.

On disk a task is a folder with `task.yaml` (`name`, `description`, `metric`, and optional
`instruction`, `group` and `fold_system`), `train.jsonl` and `eval.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from maitre.files import replacing_folder
from maitre.tuning.examples import (
    Example,
    Message,
    TaskError,
    example_to_json,
    normalised,
    overlap,
    read_lines,
)
from maitre.yaml_mapping import parse_mapping

__all__ = [
    "Example",
    "Message",
    "Metric",
    "Task",
    "TaskError",
    "load_tasks",
    "normalised",
]

Metric = Literal["accuracy", "loss"]

_METRICS = ("accuracy", "loss")
# A task's name becomes a folder, a registered model, a partition and a Kubernetes label.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NAME_RULE = "1 to 63 letters, digits, '-', '_' or '.', a letter or digit first and last"
_FILES = ("task.yaml", "train.jsonl", "eval.jsonl")


class _TaskYaml(BaseModel):
    """`task.yaml` as it comes from the user."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str
    instruction: str | None = None
    metric: Metric
    group: str | None = None
    fold_system: bool = False


@dataclass(frozen=True)
class Task:
    """A task: train and eval examples, what is measured on the eval examples, an instruction.

    `metric` says by which figure the task is judged: `accuracy` is the share of eval examples whose
    completion is answered exactly, `loss` the mean negative log-likelihood of the completion's
    tokens. `instruction` is the text with which a person would ask the model. `group` names
    related tasks together. With `fold_system`, a chat's system message becomes the beginning of its
    first user message: some chat templates refuse the role.

    Raises:
        TaskError: bad name, unknown metric, no examples, or an eval prompt that is in train.
    """

    name: str
    description: str
    instruction: str | None
    metric: Metric
    group: str | None
    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    fold_system: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.metric not in _METRICS:
            raise TaskError(f"unknown metric {self.metric!r}; known: {', '.join(_METRICS)}")
        for split, examples in (("train", self.train), ("eval", self.eval)):
            if not examples:
                raise TaskError(f"task {self.name!r}: no {split} examples")
        if clashes := overlap(enumerate(self.train), enumerate(self.eval)):
            prompt = self.eval[clashes[0][0]].prompt
            raise TaskError(f"task {self.name!r}: {_overlap_text(len(clashes), prompt)}")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The distinct completions of both splits, sorted."""
        return tuple(sorted({example.completion for example in (*self.train, *self.eval)}))

    def majority_share(self) -> float:
        """Return the share (0..1) of eval examples which the commonest completion answers."""
        counts = Counter(example.completion for example in self.eval)
        return max(counts.values()) / len(self.eval)

    def eval_fingerprint(self) -> str:
        """Return a SHA-256 (hex) of the eval split: equal splits measure prompts alike."""
        lines = [*map(example_to_json, self.eval), str(self.fold_system)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) of all that the task says, examples in order."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for split, examples in (("train", self.train), ("eval", self.eval)):
            digest.update(f"\n{split}\n".encode())
            digest.update("\n".join(map(example_to_json, examples)).encode())
        return digest.hexdigest()

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Task:
        """Read a task folder.

        Raises:
            TaskError: anything that makes the task unusable; one line, with file and line number.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise TaskError(f"{folder}: no such task folder")
        header = _read_header(folder / "task.yaml")
        train, evaluation = (read_lines(folder / f"{split}.jsonl") for split in ("train", "eval"))
        if clashes := overlap(train, evaluation):
            eval_line, train_line = clashes[0]
            prompt = dict(evaluation)[eval_line].prompt
            raise TaskError(
                f"{folder / 'eval.jsonl'}:{eval_line}: {_overlap_text(len(clashes), prompt)}"
                f" (train.jsonl:{train_line})"
            )
        return Task(
            name=header.name,
            description=header.description,
            instruction=header.instruction,
            metric=header.metric,
            group=header.group,
            train=tuple(example for _, example in train),
            eval=tuple(example for _, example in evaluation),
            fold_system=header.fold_system,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the task folder whole, or leave what was there.

        A task folder that exists is replaced; one that holds other files is left alone.

        Raises:
            TaskError: the folder holds something that is not a task file.
        """
        folder = Path(folder)
        _check_replaceable(folder)
        with replacing_folder(folder) as fresh:
            (fresh / "task.yaml").write_text(_yaml(self._header()), encoding="utf-8")
            for split, examples in (("train", self.train), ("eval", self.eval)):
                lines = "".join(f"{example_to_json(example)}\n" for example in examples)
                (fresh / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")

    def _header(self) -> dict[str, str | bool]:
        fields: dict[str, str | bool | None] = {
            "name": self.name,
            "description": self.description,
            "instruction": self.instruction,
            "metric": self.metric,
            "group": self.group,
            "fold_system": self.fold_system or None,
        }
        return {key: value for key, value in fields.items() if value is not None}


def load_tasks(folder: str | os.PathLike[str]) -> list[Task]:
    """Load every task folder in `folder`, sorted by name; hidden and plain files are passed over.

    Raises:
        TaskError: no such folder, no task in it, a bad task, or two tasks of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TaskError(f"{folder}: no such folder of tasks")
    places = (place for place in sorted(folder.iterdir()) if place.is_dir())
    found: dict[str, tuple[Path, Task]] = {}
    for place in places:
        if place.name.startswith((".", "__")):
            continue
        task = Task.load(place)
        if task.name in found:
            other = found[task.name][0]
            raise TaskError(f"{place / 'task.yaml'}: the name {task.name!r} is taken by {other}")
        found[task.name] = (place, task)
    if not found:
        raise TaskError(f"{folder}: holds no task folder (one with a task.yaml)")
    return [task for _, (_, task) in sorted(found.items())]


def find_task(folder: str | os.PathLike[str], name: str) -> Task:
    """Load the task of that name; its folder may have another name.

    Raises:
        TaskError: no such folder, no task of that name, or a bad task.
    """
    folder = Path(folder)
    places = sorted(folder.glob("*/task.yaml"), key=lambda path: path.parent.name != name)
    for header in places:
        if _read_header(header).name == name:
            return Task.load(header.parent)
    raise TaskError(f"no task {name!r} in {folder}")


def _read_header(path: Path) -> _TaskYaml:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TaskError(f"{path}: missing; a task folder needs a task.yaml") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: the text is not valid UTF-8") from error
    content = parse_mapping(text, str(path), TaskError)
    try:
        header = _TaskYaml.model_validate(content)
        _check_name(header.name)
    except ValidationError as error:
        raise TaskError(f"{path}: {_first_problem(error)}") from error
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from error
    return header


def _yaml(header: Mapping[str, str | bool]) -> str:
    # Escaped where it must be: PyYAML reads control characters back only when they are.
    plain = all(str(value).isprintable() for value in header.values())
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=plain, width=100)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown field {field!r}; known: {', '.join(_TaskYaml.model_fields)}"
        case "missing":
            return f"no {field}"
        case "literal_error":
            return f"unknown metric {problem['input']!r}; known: {', '.join(_METRICS)}"
        case _:
            return f"{field}: {problem['msg'].lower()}, not {problem['input']!r}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise TaskError(f"bad name {name!r}: a task's name is {_NAME_RULE}")


def _overlap_text(count: int, prompt: str) -> str:
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}…"
    prompts = "1 eval prompt is" if count == 1 else f"{count} eval prompts are"
    return f"eval overlaps train: {prompts} in train too, the first {shown!r}"


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TaskError(f"{folder}: is a file; a task is saved as a folder")
    if others := sorted({path.name for path in folder.iterdir()} - set(_FILES)):
        raise TaskError(
            f"{folder}: holds {others[0]!r}, which is not a task file; nothing was saved"
        )
