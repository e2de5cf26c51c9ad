from pathlib import Path

import pytest
from typer.testing import CliRunner

from maitre.cli.main import app
from maitre.settings import Settings, SettingsError

ENTRY_POINTS = {
    # The settings themselves, and what a child process inherits.
    "maitre/settings.py",
    "maitre/processes/environment.py",
    # The command line, and where `maitre up` keeps Dagster's home.
    "maitre/cli/given_settings.py",
    "maitre/cli/up.py",
    # Processes and objects that others start: a worker, Dagster's launcher, an MLflow model.
    "maitre/workers/process/server.py",
    "maitre/workers/launch/launcher.py",
    # Gloo takes its network interface from the environment only.
    "maitre/workers/process/group.py",
    # Dagster's code locations and the walkthrough.
    "pipelines/definitions.py",
    "pipelines/serving.py",
    "pipelines/tuning.py",
    "pipelines/walkthrough/__main__.py",
}


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "maitre.yaml"
    file.write_text("tasks: mine\nheld_back: [a]\n")
    settings = Settings.read(file, environment={"MAITRE_TASKS": "theirs"})
    assert settings.tasks == "theirs"
    assert settings.held_back == ("a",)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("taks: x\n", "taks"),
        ("tasks: [\n", "YAML"),
        ("- a\n", "field: value"),
        ("tasks: 3\n", "tasks"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: str, names: str) -> None:
    file = tmp_path / "maitre.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=names) as refused:
        Settings.read(file, environment={})
    assert "\n" not in str(refused.value)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such settings file"):
        Settings.read(tmp_path / "absent.yaml", environment={})


def test_a_child_process_reads_the_same_settings_from_its_environment() -> None:
    settings = Settings(
        home="elsewhere", held_back=("a", "b"), min_warm_workers=3, worker_token="secret"
    )
    assert Settings.read(environment=settings.environment()) == settings
    assert Settings.read(environment=Settings().environment()) == Settings()
    assert "secret" not in repr(settings)


def test_an_empty_list_of_held_back_tasks_is_none() -> None:
    assert Settings.read(environment={"MAITRE_HELD_BACK": ""}).held_back == ()


def test_the_command_line_reads_the_settings_once_and_only_where_it_needs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = Settings.read
    calls: list[object] = []
    monkeypatch.setattr(Settings, "read", lambda **given: (calls.append(given), read(**given))[1])
    monkeypatch.setenv("MAITRE_REQUEST_QUEUE_URL", f"sqlite:///{tmp_path}/requests.db")
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path))
    monkeypatch.setenv("MAITRE_BASE_MODEL", str(tmp_path))
    cli = CliRunner()
    assert cli.invoke(app, ["twin", "profiles"]).exit_code == 0
    assert calls == []
    assert cli.invoke(app, ["requests", "list"]).exit_code == 0
    assert len(calls) == 1
    cli.invoke(app, ["tune", "--local", "no such task"])
    assert len(calls) == 2


def test_only_entry_points_read_the_settings_and_the_environment() -> None:
    root = Path(__file__).parents[1]
    found = {
        str(path.relative_to(root))
        for room in ("maitre", "assets", "resources", "sensors", "pipelines")
        for path in (root / room).rglob("*.py")
        if "Settings.read(" in path.read_text() or "os.environ" in path.read_text()
    }
    assert found == ENTRY_POINTS
