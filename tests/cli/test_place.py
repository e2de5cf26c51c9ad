"""`maitre place`: what it refuses, and what it says of a changed plan."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from maitre.cli.main import app
from maitre.cli.output import print_table
from maitre.errors import UserError
from maitre.placement.plan import PlacementPlan

RUN = CliRunner()
PROFILE = "h100-64gb/llama-3.1-8b-instruct"
MODEL = "llama-3.1-8b-instruct"
QUICK = ["--check-duration", "300", "--no-baselines"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    return written(tmp_path / "adapters.csv", rate_rps=0.2)


@pytest.fixture
def running(tmp_path: Path, catalogue: Path) -> Path:
    path = tmp_path / "plan.json"
    placed(catalogue, "--check-duration", "0", "--no-baselines", "--out", str(path))
    return path


def written(path: Path, rate_rps: float, rank: int = 8) -> Path:
    names = [f"a{i}" for i in range(12)]
    frame = {"adapter": names, "base_model": MODEL, "rank": rank, "rate_rps": rate_rps}
    pd.DataFrame(frame).to_csv(path, index=False)
    return path


def placed(catalogue: Path, *options: str, exit_code: int = 0) -> str:
    found = RUN.invoke(app, ["place", str(catalogue), "--profile", PROFILE, *options])
    assert found.exit_code == exit_code, found.exception
    return found.stdout


def refused(catalogue: Path, *options: str) -> str:
    found = RUN.invoke(app, ["place", str(catalogue), "--profile", PROFILE, *options])
    # `main` makes one line and exit 2 of these.
    assert isinstance(found.exception, ValueError | FileNotFoundError), found.exception
    return str(found.exception)


@pytest.mark.parametrize("options", [["--gpus", "3"], ["--replicas", "a1=2"]])
def test_options_of_a_new_plan_are_refused_with_a_running_one(
    catalogue: Path, running: Path, options: list[str]
) -> None:
    assert "--gpus and --replicas are for a new plan" in refused(
        catalogue, "--from", str(running), *options
    )


@pytest.mark.parametrize("options", [["--max-moves", "3"], ["--closing-moves", "1"]])
def test_moves_without_a_running_plan_are_refused(catalogue: Path, options: list[str]) -> None:
    assert "--max-moves and --closing-moves limit" in refused(catalogue, *options)


@pytest.mark.parametrize("options", [["--max-moves", "-1"], ["--closing-moves", "-1"]])
def test_fewer_moves_than_none_are_refused(
    catalogue: Path, running: Path, options: list[str]
) -> None:
    assert "must not be negative" in refused(catalogue, "--from", str(running), *options)


def test_a_running_plan_that_is_none_is_refused(catalogue: Path, tmp_path: Path) -> None:
    assert "is a folder" in refused(catalogue, "--from", str(tmp_path))
    assert "there is no such plan" in refused(catalogue, "--from", str(tmp_path / "absent"))
    assert "the plan is not JSON" in refused(catalogue, "--from", str(catalogue))


def test_a_changed_plan_is_checked_in_the_twin(catalogue: Path, running: Path) -> None:
    plan = document(placed(catalogue, "--from", str(running), *QUICK, "--seed", "3", "--json"))
    assert plan.evidence.servers_checked == plan.gpus
    assert plan.evidence.servers_failed == {}
    checked = {"rate_factor": 1.05, "duration_s": 300.0, "seed": 3}
    assert checked.items() <= plan.evidence.to_dict().items()
    unchecked = placed(catalogue, "--from", str(running), "--check-duration", "0", "--json")
    assert document(unchecked).evidence.servers_failed is None
    assert document(unchecked).evidence.servers_checked == 0


def test_servers_that_a_changed_plan_leaves_overloaded_are_named(
    catalogue: Path, running: Path, tmp_path: Path
) -> None:
    hotter = written(tmp_path / "hotter.csv", rate_rps=8.0)
    options = ["--from", str(running), "--max-moves", "0", *QUICK]
    path = tmp_path / "changed.json"
    plan = document(placed(hotter, *options, "--json", "--out", str(path), exit_code=3))
    failed = plan.evidence.servers_failed
    assert failed
    assert plan.evidence.check_passed is False
    text = placed(hotter, *options, exit_code=3)
    assert f"over the risk, for want of moves: {', '.join(plan.evidence.servers_over_risk)}" in (
        text
    )
    for name, reason in failed.items():
        assert f"{name}: {reason}" in text
    render = ["deploy", "render", str(path), "--out", str(tmp_path / "rendered")]
    refused = RUN.invoke(app, render)
    assert isinstance(refused.exception, UserError)
    assert "--unsafe" in str(refused.exception)
    assert not (tmp_path / "rendered").exists()
    steps = ["deploy", "local", str(path), "--adapters", str(tmp_path), "--dry-run"]
    assert "--unsafe" in str(RUN.invoke(app, steps).exception)
    assert RUN.invoke(app, [*render, "--unsafe"]).exit_code == 0


def test_no_more_servers_are_checked_than_asked(running: Path, tmp_path: Path) -> None:
    hotter = written(tmp_path / "hotter.csv", rate_rps=8.0)
    options = ["--from", str(running), "--check-servers", "1", *QUICK, "--json"]
    plan = document(placed(hotter, *options))
    assert plan.gpus > 1
    assert plan.evidence.servers_checked == 1


def test_what_if_adapters_are_spoken_of_only_where_there_are_any(tmp_path: Path) -> None:
    large = written(tmp_path / "large.csv", rate_rps=1e7, rank=32)
    assert "what-if" not in refused(large, "--check-duration", "0")
    assert "row 1: adapter 'a0' fits no server" in refused(large)
    sound = written(tmp_path / "sound.csv", rate_rps=0.1)
    assert "with what-if adapters" in refused(sound, "--add", "1:rank=512,rate=1", *QUICK)


def test_a_check_too_short_and_less_than_told_are_refused(catalogue: Path) -> None:
    assert "at least 300 simulated seconds" in refused(catalogue, "--check-duration", "60")
    assert "got -0.9" in refused(catalogue, "--headroom", "-0.9")


def test_an_adapter_to_explain_must_be_in_the_catalogue(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "maitre.placement.gpu_kinds.place_at_lowest_cost",
        lambda *_, **__: pytest.fail("refused before the work"),
    )
    assert "--explain nobody: expected the name of an adapter" in refused(
        catalogue, "--explain", "nobody"
    )


def test_a_table_keeps_numbers_whole_in_80_columns(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = {
        "server": "llama-3.1-8b-instruct-0000", "adapters": 128, "slots": 104, "rank": 32,
        "requests/s": 21.61, "tokens/s": 12345, "fill": 0.9468, "limited by": "KV cache",
        "risk": 0.00479,
    }  # fmt: skip
    print_table([row], "plan")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for whole in ("128", "104", "32", "21.61", "12345", "0.9468", "0.00479", "KV", "cache"):
        assert whole in shown


def document(text: str) -> PlacementPlan:
    found: dict[str, Any] = json.loads(text)
    return PlacementPlan.from_dict(found)
