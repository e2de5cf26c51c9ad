"""Bad input, through the command line and through the asset graph: one error, nothing written."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from maitre.cli.main import main
from maitre.settings import Settings
from maitre.tuning.tasks import Task
from pipelines.code_location import code_location
from pipelines.serving import serving_half
from pipelines.walkthrough.__main__ import make_if_stale
from resources.data_home import DataHome
from resources.wiring import resources
from tests.halves import SERVING, TUNING
from tests.tiny_inputs import write_adapters, write_model, write_tasks

PROFILE = "h100-64gb/llama-3.1-8b-instruct"
MODEL = "llama-3.1-8b-instruct"
HEADER = "adapter,base_model,rank,rate_rps\n"

BAD_CATALOGUES = {
    "missing column": (f"adapter,base_model,rank\na,{MODEL},8\n", "column 'rate_rps' is missing"),
    "negative rate": (f"{HEADER}a,{MODEL},8,1\nb,{MODEL},8,-0.5\n", "row 2: rate_rps"),
    "rank that is not a number": (f"{HEADER}a,{MODEL},eight,1\n", "row 1: rank 'eight'"),
    "unknown base model": (f"{HEADER}a,gpt-9,8,1\n", "row 1: base_model 'gpt-9'"),
    "no rows": (HEADER, "no rows"),
}


def empty_task(folder: Path) -> str:
    (folder / "train.jsonl").write_text("")
    return "train.jsonl: is empty"


def overlapping_task(folder: Path) -> str:
    with (folder / "eval.jsonl").open("a") as lines:
        lines.write((folder / "train.jsonl").read_text().splitlines()[0] + "\n")
    return "eval overlaps train"


def task_line_without_completion(folder: Path) -> str:
    with (folder / "train.jsonl").open("a") as lines:
        lines.write('{"prompt": "what"}\n')
    return "no completion"


BAD_TASKS = {f.__name__: f for f in (empty_task, overlapping_task, task_line_without_completion)}
Spoil = Callable[[Path], str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Sound inputs, each of which a test then spoils; the same for the command line."""
    home = tmp_path / "home"
    made = Settings(
        home=str(home),
        base_model=str(tmp_path / "model"),
        tasks=str(write_tasks(tmp_path / "tasks", ("first", "second"))),
        adapters=str(write_adapters(tmp_path / "adapters.csv", MODEL, count=3)),
        profile=PROFILE,
        request_queue_url=f"sqlite:///{home}/requests.db",
        mlflow_tracking_uri=f"sqlite:///{home}/mlflow/mlflow.db",
    )
    for field in ("home", "base_model", "tasks", "adapters", "profile", "request_queue_url"):
        monkeypatch.setenv(f"MAITRE_{field.upper()}", getattr(made, field))
    monkeypatch.setenv("MAITRE_MLFLOW_TRACKING_URI", made.mlflow_tracking_uri)
    # The live workers of other tests are in the environment for as long as there are any.
    monkeypatch.setenv("MAITRE_WARM_POOL", "off")
    monkeypatch.chdir(tmp_path)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command says on stderr; it must exit 2, print nothing else and write no file."""
    before = files(Path.cwd())
    monkeypatch.setattr("sys.argv", ["maitre", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith("maitre: ")
    assert said.err.count("maitre: ") == 1
    assert "Traceback" not in said.err
    assert files(Path.cwd()) == before
    return said.err


@pytest.mark.parametrize("kind", BAD_CATALOGUES)
@pytest.mark.parametrize("command", ["place", "predict"])
def test_a_command_refuses_a_bad_catalogue(
    kind: str,
    command: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, expected = BAD_CATALOGUES[kind]
    Path(settings.adapters).write_text(text)
    arguments = {
        "place": ["place", settings.adapters, "--out", "plan.json", "--report", "plan.html"],
        "predict": ["maxpack", "predict", settings.adapters],
    }[command]
    assert expected in refused([*arguments, "--profile", PROFILE], monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["place", "absent.csv", "--profile", PROFILE], "no adapter catalogue at absent.csv"),
        (["place", "adapters.csv", "--profile", "h900"], "'h900'"),
        (["tune", "absent", "--deadline", "10m"], "no task 'absent'"),
        (["tune", "first", "--deadline", "soon"], "deadline 'soon'"),
        (["tune", "first", "--deadline", "2001-01-01"], "has passed: expected a time after"),
    ],
)
def test_a_command_names_what_is_not_there(
    arguments: list[str],
    expected: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert expected in refused([*arguments, "--json"], monkeypatch, capsys)


@pytest.mark.parametrize("spoil", BAD_TASKS.values(), ids=BAD_TASKS)
def test_a_bad_task_is_not_queued(
    spoil: Spoil,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = spoil(Path(settings.tasks) / "first")
    said = refused(["tune", "first", "--deadline", "10m"], monkeypatch, capsys)
    assert expected in said
    assert said.count("\n") == 1


def failures(settings: Settings, assets: list, selection: list[str]) -> list[str]:
    """Materialise; the messages of the steps that failed."""
    result = dg.materialize(
        assets,
        selection=selection,
        instance=dg.DagsterInstance.ephemeral(),
        resources=resources(settings),
        raise_on_error=False,
    )
    errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert result.success == (not errors)
    return [(error.cause or error).message for error in errors if error]


@pytest.mark.parametrize("kind", BAD_CATALOGUES)
def test_the_graph_refuses_a_bad_catalogue_and_keeps_the_last_good_one(
    kind: str, settings: Settings
) -> None:
    selection = ["adapter_file", "profile_files", "adapter_catalogue"]
    assert failures(settings, SERVING, selection) == []
    before = files(Path(settings.home))
    assert list(before) == ["adapter_catalogue.parquet"]
    text, expected = BAD_CATALOGUES[kind]
    Path(settings.adapters).write_text(text)
    [message] = failures(settings, SERVING, selection)
    assert expected in message
    assert files(Path(settings.home)) == before


@pytest.mark.parametrize("spoil", BAD_TASKS.values(), ids=BAD_TASKS)
def test_the_graph_refuses_a_bad_task(spoil: Spoil, settings: Settings) -> None:
    expected = spoil(Path(settings.tasks) / "second")
    [message] = failures(settings, TUNING, ["task_files", "tuning_tasks"])
    assert expected in message
    assert not Path(settings.home).exists()


def test_an_unknown_held_back_task_is_named(settings: Settings) -> None:
    wrong = settings.model_copy(update={"held_back": ("third",)})
    [message] = failures(wrong, TUNING, ["task_files", "tuning_tasks"])
    assert "third" in message
    assert not Path(settings.home).exists()


@pytest.mark.parametrize("damage", ["no folder", "no weights"])
def test_an_unknown_base_model_leaves_no_bank(damage: str, settings: Settings) -> None:
    if damage == "no weights":
        (write_model(Path(settings.base_model)) / "model.safetensors").unlink()
    assert failures(settings, TUNING, ["task_files", "tuning_tasks"]) == []
    [message] = failures(settings, TUNING, ["bank_prompts"])
    assert settings.base_model in message
    home = DataHome(root=settings.home)
    assert not home.files().exists("bank_prompts")
    assert not home.files().exists("bank")
    if home.files().exists("mlflow/mlflow.db"):
        client = resources(settings)["mlflow"].store().client()
        [experiment] = [e for e in client.search_experiments() if e.name == "maitre"]
        [run] = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FAILED"
        assert list(client.search_registered_models()) == []


def test_make_run_stops_at_a_bad_input_with_one_message(settings: Settings) -> None:
    Path(settings.adapters).write_text(BAD_CATALOGUES["negative rate"][0])
    defs = code_location(settings, serving_half(settings))
    key = dg.AssetKey("adapter_catalogue")
    shown = io.StringIO()
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(SystemExit) as ended:
        make_if_stale(instance, defs, "serving", key, None, Console(file=shown, width=200))
    assert ended.value.code == 1
    assert shown.getvalue().count("row 2: rate_rps") == 1
    assert "Traceback" not in shown.getvalue()
    assert not Path(settings.home).exists()


def test_a_task_that_is_sound_is_queued(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Task.load(Path(settings.tasks) / "first").name == "first"
    monkeypatch.setattr("sys.argv", ["maitre", "tune", "first", "--deadline", "10m", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["state"] == "queued"
