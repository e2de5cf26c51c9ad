"""`maitre bank` from end to end on a tiny model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maitre.bank.entry import BankError
from maitre.cli.bank import app
from maitre.tuning.tasks import Example, Task
from tests.tuning.conftest import write_tiny_model

runner = CliRunner()


def call(*arguments: str) -> dict | list:
    result = runner.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny_model(tmp_path / "model")
    task = Task(
        name="colours",
        description="colour",
        instruction="what colour is this",
        metric="accuracy",
        group="g",
        train=(Example("apple", "red"), Example("leaf", "green")),
        eval=(Example("rose", "red"),),
    )
    task.save(tmp_path / "tasks" / "colours")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAITRE_BASE_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("MAITRE_TASKS", str(tmp_path / "tasks"))
    return tmp_path


def test_a_prompt_goes_in_is_found_and_comes_out(home: Path) -> None:
    added = call("add", "--task", "colours", "--description", "colour", "--text", "red sky")
    assert isinstance(added, dict)
    entry_id = added["entry_id"]
    call("add", "--task", "t2", "--description", "d", "--text", "big house", "--tenant", "blue")

    listed = call("list")
    assert [entry["entry_id"] for entry in listed] == [entry_id]
    assert len(call("list", "--tenant", "blue")) == 2
    assert call("stats", "--tenant", "blue")["private"] == 1

    found = call("search", "colours", "--exhaustive")
    names = {candidate["name"] for candidate in found["candidates"]}
    assert names == {entry_id, "text:instruction", "text:description", "random"}
    assert found["choice"] in names

    written = call("export", entry_id, str(home / "out"))
    assert written["files"] == ["soft_prompt.safetensors"]
    with pytest.raises(BankError, match="near duplicate"):
        call("add", "--task", "x", "--description", "d", "--prompt", str(home / "out"))


def test_what_cannot_be_is_one_clear_error(home: Path) -> None:
    with pytest.raises(BankError, match="no prompt bank at"):
        call("list")
    with pytest.raises(BankError, match="either --prompt or --text"):
        call("add", "--task", "x", "--description", "d")
    call("add", "--task", "x", "--description", "d", "--text", "red", "--tenant", "blue")
    with pytest.raises(BankError, match="no entry"):
        call("export", call("list", "--tenant", "blue")[0]["entry_id"], str(home / "out"))
    assert not (home / "out").exists()
