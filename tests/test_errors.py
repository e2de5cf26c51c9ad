"""What becomes a line for the user, and what stays a defect with its traceback."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import maitre
from maitre.cli.main import ISSUES, main
from maitre.errors import UserError, named_file_errors, reading
from tests.tiny_inputs import write_tasks

PROFILE = "h100-64gb/llama-3.1-8b-instruct"
# Raised by a policy's or Maitre's own defect, or caught inside: never shown as the user's.
NOT_THE_USERS = {
    "PolicyError",
    "BusyError",
    "NoSuchClaimError",
    "ClaimRefusedError",
    "WorkerUnreachableError",
    # The proxy answers these to its clients, or ends the connection.
    "RefusedRequestError",
    "ClientGoneError",
    "StreamCutError",
}


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["maitre", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), capsys.readouterr().err


# Each command that reads a file, with FILE where that goes.
READERS = [
    ["place", "FILE", "--profile", PROFILE],
    ["place", "examples/adapters.csv", "--profile", "FILE"],
    ["place", "examples/adapters.csv", "--profile", PROFILE, "--from", "FILE"],
    ["place", "examples/adapters.csv", "--profile", PROFILE, "--model", "FILE"],
    ["twin", "simulate", "--profile", "FILE", "--catalogue", "examples/adapters.csv"],
    ["twin", "simulate", "--profile", PROFILE, "--trace", "FILE"],
    ["maxpack", "fit", "FILE", "OUT"],
    ["maxpack", "predict", "FILE", "--profile", PROFILE],
    ["cluster", "simulate", "--jobs", "FILE", "--cluster", "examples/cluster.yaml"],
    ["cluster", "simulate", "--jobs", "FILE", "--cluster", "FILE"],
    ["cluster", "verify", "FILE", "--jobs", "FILE", "--cluster", "examples/cluster.yaml"],
    ["cluster", "replay", "FILE"],
    ["deploy", "render", "FILE", "OUT"],
    ["deploy", "local", "FILE"],
    ["deploy", "kubernetes", "FILE"],
    ["twin", "fit", "FILE"],
    ["twin", "calibrate", "FILE", "--model", "llama"],
    ["tune", "FILE", "--local"],
    ["bank", "export", "nothing", "--bank", "FILE"],
]


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "empty"])
@pytest.mark.parametrize("command", READERS, ids=lambda command: " ".join(command[:2]))
def test_a_file_that_cannot_be_used_is_one_error_and_writes_nothing(
    command: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "given.csv"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes(b"\xff\xfe\x00\x9f{" if kind == "binary" else b"")
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    names = {"FILE": str(file), "OUT": str(tmp_path / "out")}
    code, said = run([names.get(part, part) for part in command], monkeypatch, capsys)
    assert code == 2, said
    assert "Traceback" not in said
    assert said.strip()
    assert not (tmp_path / "out").exists()


def test_a_defect_keeps_its_traceback_and_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken() -> None:
        raise ValueError("an index is out of range")

    monkeypatch.setattr("maitre.cli.main.app", broken)
    code, said = run([], monkeypatch, capsys)
    assert code == 1
    assert "Traceback" in said
    assert "ValueError: an index is out of range" in said
    assert said.strip().splitlines()[-1].endswith(ISSUES)


@pytest.mark.slow
def test_every_error_class_is_the_users_or_is_listed_as_a_defect() -> None:
    found = {}
    for module in pkgutil.walk_packages(maitre.__path__, "maitre."):
        if ".mlflow_models" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and issubclass(value, Exception) and not name.startswith("_"):
                found[name] = value
    assert len(found) > 20
    wrong = {n for n, kind in found.items() if not issubclass(kind, UserError)} - NOT_THE_USERS
    assert not wrong


def test_only_files_that_were_named_are_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"), named_file_errors(tmp_path / "a"):
        (tmp_path / "a").read_text()
    with pytest.raises(UserError, match="inner"), named_file_errors(None, tmp_path / "a"):
        (tmp_path / "a" / "inner").read_text()
    with pytest.raises(FileNotFoundError), named_file_errors(tmp_path / "a"):
        (tmp_path / "b").read_text()


def test_reading_names_the_file_and_passes_errors_that_have_a_line(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    with pytest.raises(UserError, match=r"file\.json: No such file"), reading(file):
        file.read_text()
    with pytest.raises(UserError, match=r"^as it is$"), reading(file):
        raise UserError("as it is")


@pytest.mark.parametrize(
    "command",
    [
        ["place", "examples/adapters.csv", "--profile", PROFILE, "--seed", "-1"],
        ["twin", "simulate", "--profile", PROFILE, "--catalogue", "x.csv", "--seed", "-1"],
        [
            "cluster",
            "simulate",
            "--jobs",
            "x",
            "--cluster",
            "x",
            "--policy",
            "maitre",
            "--seed",
            "-5",
        ],
        ["maxpack", "fit", "x.parquet", "out", "--seed", "-1"],
        ["tune", "task", "--local", "--seed", "-1"],
        ["tune", "task", "--deadline", "99999999999999d"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_value_out_of_range_is_one_error(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAITRE_TASKS", str(write_tasks(tmp_path / "tasks", ("task",))))
    code, said = run(command, monkeypatch, capsys)
    assert code == 2, said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", [b"\xff\xfehome: x", b"{", b"- a list", b"nosuch: 1"])
def test_a_settings_file_that_cannot_be_used_is_one_error(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "maitre.yaml").write_bytes(content)
    monkeypatch.setenv("MAITRE_SETTINGS", str(tmp_path / "maitre.yaml"))
    code, said = run(["requests", "list"], monkeypatch, capsys)
    assert code == 2, said
    assert "maitre.yaml" in said
