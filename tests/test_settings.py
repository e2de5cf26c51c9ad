from pathlib import Path

import pytest

from maitre.settings import Settings, SettingsError


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
