"""`maitre tune --local` from end to end on a tiny model."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maitre.cli import local_tuning
from maitre.cli.main import app
from maitre.tuning.config import IterationReport
from maitre.tuning.tasks import Example, Task
from tests.tuning.conftest import write_tiny_model

runner = CliRunner()
ENTRY = ("--task", "t2", "--description", "d", "--text", "big house")
SHORT = ("--max-iterations", "4", "--batch-size", "2")


def call(*arguments: str) -> dict:
    result = runner.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny_model(tmp_path / "model")
    Task(
        name="colours",
        description="colour",
        instruction="what colour is this",
        metric="accuracy",
        group="g",
        train=(Example("apple", "red"), Example("leaf", "green")),
        eval=(Example("rose", "red"), Example("grass", "green")),
    ).save(tmp_path / "tasks" / "colours")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAITRE_BASE_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("MAITRE_TASKS", str(tmp_path / "tasks"))
    return tmp_path


def test_the_report_holds_what_the_contract_names(home: Path) -> None:
    report = call("tune", "colours", "--local", "--init", "random", "--seed", "3", *SHORT)
    assert [iteration for iteration, _ in report["curve"]] == [0, 2, 4]
    assert (report["reached"], report["iterations"], report["entry"]) == (False, 4, None)
    assert report["eval_loss"] in [loss for _, loss in report["curve"]]
    assert 0 <= report["eval_accuracy"] <= 1
    assert report["seconds"] >= report["lookup_seconds"] == 0
    again = call(
        "tune", str(home / "tasks/colours"), "--local", "--init", "random", "--seed", "3", *SHORT
    )
    assert again["curve"] == report["curve"]


def test_starts_of_the_bank_by_choice_and_by_name(home: Path) -> None:
    entry = call("bank", "add", *ENTRY)["entry_id"]
    named = call("tune", "colours", "--local", "--init", entry, *SHORT)
    assert (named["entry"], named["start"]) == (entry, entry)
    chosen = call("tune", "colours", "--local", *SHORT)
    assert chosen["entry"] in (entry, None)
    assert chosen["lookup_seconds"] > 0
    assert chosen["why"]
    alone = call("tune", "colours", "--local", "--leave-out", "t2", *SHORT)
    assert alone["entry"] is None
    text = call("tune", "colours", "--local", "--init", "text", *SHORT)
    assert text["start"] == "text:instruction"


def test_it_stops_at_the_target_and_writes_the_prompt(home: Path) -> None:
    options = ("tune", "colours", "--local", "--init", "text", "--out", str(home / "made"))
    report = call(*options, "--target-loss", "1000")
    assert (report["reached"], report["iterations"]) == (True, 0)
    assert (home / "made" / "soft_prompt.safetensors").is_file()
    with pytest.raises(ValueError, match="exists already"):
        call(*options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no such task folder"),
        (("colours", "--init", "nothing-like-it"), "no prompt bank"),
        (("colours", "--max-iterations", "0"), "max_iterations must be at least 1"),
        (("colours", "--target-accuracy", "2"), "target_accuracy"),
        (("colours", "--method", "lora", "--init", "text"), "--init text"),
        (("colours", "--method", "lora", "--position", "prefix"), "--position is for soft prompts"),
        (("colours", "--rank", "4"), "--method lora"),
        (("colours", "--workers", "0"), "workers must be at least 1"),
        (("colours", "--bank", "elsewhere"), "no prompt bank at elsewhere"),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    home: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call("tune", *arguments, "--local")


def test_an_unknown_entry_and_a_bank_of_another_model_are_refused(home: Path) -> None:
    call("bank", "add", *ENTRY)
    with pytest.raises(ValueError, match="no entry 'nothing'"):
        call("tune", "colours", "--local", "--init", "nothing")
    [bank] = (home / "home" / "bank").iterdir()
    write_tiny_model(home / "model", seed=1)
    with pytest.raises(ValueError, match="is of base model"):
        call("tune", "colours", "--local", "--bank", str(bank))


def test_a_malformed_line_is_named_by_its_number(home: Path) -> None:
    with (home / "tasks/colours/eval.jsonl").open("a") as lines:
        lines.write("{not json\n")
    with pytest.raises(ValueError, match=r"eval\.jsonl:3"):
        call("tune", "colours", "--local")


def test_an_adapter_is_tuned_resumed_and_written_in_peft_s_format(home: Path) -> None:
    options = ("tune", "colours", "--local", "--method", "lora", "--rank", "2", "--batch-size", "2")
    state = ("--checkpoint", str(home / "run.safetensors"))
    call(*options, *state, "--max-iterations", "2")
    report = call(*options, *state, "--max-iterations", "4", "--out", str(home / "adapter"))
    assert report["curve"] == call(*options, "--max-iterations", "4")["curve"]
    assert {file.name for file in (home / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_prompt(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maitre.tuning import tune as module

    real, calls = module.answer_losses, iter(range(100))
    monkeypatch.setattr(
        module,
        "answer_losses",
        lambda *given: (real(*given)[0] * (float("nan") if next(calls) == 2 else 1), None),
    )
    out = ("--out", str(home / "made"))
    report = call("tune", "colours", "--local", "--init", "text", *SHORT, *out)
    assert (report["stopped_because"], report["iterations"]) == ("diverged", 2)
    assert report["eval_loss"] in [loss for _, loss in report["curve"]]
    assert (home / "made" / "soft_prompt.safetensors").is_file()


def test_an_interrupt_ends_the_run_at_its_next_step_with_a_report(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def press_ctrl_c(report: IterationReport) -> None:
        told.append(report.iteration)
        if report.iteration == 2 and told.count(2) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(local_tuning, "_print_iteration", press_ctrl_c)
    before = signal.getsignal(signal.SIGINT)
    result = runner.invoke(
        app, ["tune", "colours", "--local", "--init", "random", *SHORT, "--max-iterations", "40"]
    )
    assert result.exit_code == 130
    assert "was cancelled after 2 iterations" in result.stdout
    assert signal.getsignal(signal.SIGINT) is before
