"""Tasks from a folder, and from a source of one's own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from maitre.tuning import task_source as module
from maitre.tuning.task_source import TaskFolder, TaskSource, task_source
from maitre.tuning.tasks import Task, TaskError
from tests.tiny_inputs import write_tasks


@dataclass(frozen=True)
class InMemory:
    """Tasks that somebody holds already."""

    tasks: tuple[Task, ...]

    def all(self) -> list[Task]:
        return sorted(self.tasks, key=lambda task: task.name)

    def read(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        raise TaskError(f"no task {name!r}")

    def fingerprint(self) -> str:
        return "-".join(task.name for task in self.all())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks", ("first", "second"))


def test_a_folder_gives_its_tasks_by_name(folder: Path) -> None:
    source = task_source(str(folder))
    assert [task.name for task in source.all()] == ["first", "second"]
    assert source.read("second").name == "second"
    with pytest.raises(TaskError, match="no task 'third'"):
        source.read("third")


def test_the_fingerprint_follows_the_content(folder: Path) -> None:
    source = TaskFolder(folder)
    before = source.fingerprint()
    assert source.fingerprint() == before
    with (folder / "first" / "train.jsonl").open("a") as lines:
        lines.write('{"prompt": "one more", "completion": "yes"}\n')
    assert source.fingerprint() != before
    with pytest.raises(TaskError, match="no such folder of tasks"):
        TaskFolder(folder / "nowhere").fingerprint()


def test_a_source_of_ones_own_is_found_by_its_scheme(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: TaskSource = InMemory(tuple(TaskFolder(folder).all()))
    monkeypatch.setitem(module._SOURCES, "memory", lambda _: held)
    source = task_source("memory:")
    assert source.read("first") == TaskFolder(folder).read("first")
    assert source.fingerprint() == "first-second"
    assert isinstance(task_source(f"folder:{folder}"), TaskFolder)
