"""Where tasks come from: a small protocol, and the folder of task folders behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maitre import fingerprints
from maitre.tuning.tasks import Task, TaskError, find_task, load_tasks


class TaskSource(Protocol):
    """Tasks by name. Equal contents have equal fingerprints."""

    def all(self) -> list[Task]:
        """Return every task, sorted by name.

        Raises:
            TaskError: there is no task, two have one name, or one of them is not sound.
        """
        ...

    def read(self, name: str) -> Task:
        """Return the task of that name.

        Raises:
            TaskError: there is no such task, or it is not sound.
        """
        ...

    def fingerprint(self) -> str:
        """Return a hash of everything that the tasks are made from; it reads no example.

        Raises:
            TaskError: the source is not there.
        """
        ...


@dataclass(frozen=True)
class TaskFolder:
    """A folder with one folder per task (`task.yaml`, `train.jsonl`, `eval.jsonl`)."""

    path: Path

    def all(self) -> list[Task]:
        """Return every task, sorted by name."""
        return load_tasks(self.path)

    def read(self, name: str) -> Task:
        """Return the task of that name; its folder may have another name."""
        return find_task(self.path, name)

    def fingerprint(self) -> str:
        """Return a hash over the names and contents of all files."""
        if not self.path.is_dir():
            raise TaskError(f"{self.path}: no such folder of tasks; see maitre.yaml")
        return fingerprints.of_files(sorted(p for p in self.path.rglob("*") if p.is_file()))


_SOURCES: dict[str, Callable[[str], TaskSource]] = {
    "folder": lambda location: TaskFolder(Path(location)),
}
"""Sources by the scheme of `tasks` in the settings: `SCHEME:LOCATION`."""


def task_source(tasks: str) -> TaskSource:
    """Return the source that the setting `tasks` names: a folder, or `SCHEME:LOCATION`."""
    scheme, separator, location = tasks.partition(":")
    if separator and scheme in _SOURCES:
        return _SOURCES[scheme](location)
    return TaskFolder(Path(tasks))
