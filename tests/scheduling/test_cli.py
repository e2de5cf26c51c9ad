import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maitre.cli.cluster import app
from maitre.scheduling import POLICIES

CLUSTER = """
gpus: 4
gpu_price_per_hour: 2
models:
  small: {warm_up_s: 10, lookup_s: 2, resize_s: 1, iteration_s: {1: 0.5, 2: 0.3}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text(CLUSTER, encoding="utf-8")
    times = "\n".join(str(60 * number**1.3) for number in range(40))
    (tmp_path / "trace.csv").write_text(f"submission_time\n{times}\n", encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    words = [word.replace("@", f"{folder}/") for word in arguments]
    result = CliRunner().invoke(app, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_generate_simulate_verify_agree(folder: Path) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    assert run(folder, *made)[0] == 0
    files = ("--jobs", "@jobs.csv", "--cluster", "@cluster.yaml", "--json")
    code, text = run(folder, "simulate", "--policy", "maitre", "--out", "@events.csv", *files)
    assert code == 0
    simulated = json.loads(text)
    code, text = run(folder, "verify", "@events.csv", *files)
    verified = json.loads(text)
    assert code == 0
    assert verified["problems"] == []
    assert verified["violations"] == simulated["violations"]
    assert verified["cost"] == pytest.approx(simulated["cost"], abs=1e-5)


@pytest.mark.slow
def test_compare_reports_every_policy_and_the_bound(folder: Path) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    run(folder, *made)
    code, text = run(
        folder, "compare", "--jobs", "@jobs.csv", "--cluster", "@cluster.yaml", "--json",
        "--figures", "@figures",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(text)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert all(row["bound_gpu_hours"] <= row["gpu_hours"] for row in rows)
    assert (folder / "figures" / "timeline.png").stat().st_size > 0


def test_verify_fails_on_a_broken_log(folder: Path) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    run(folder, *made)
    log = "time_s,event,worker,job_id,base_model\n0.000,worker_stop,w1,,\n"
    (folder / "events.csv").write_text(log, encoding="utf-8")
    files = ("--jobs", "@jobs.csv", "--cluster", "@cluster.yaml")
    assert run(folder, "verify", "@events.csv", *files)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "best"), "policy 'best'"),
        (("--policy", "maitre", "--set", "speed=1"), "no parameter 'speed'"),
        (("--policy", "maitre", "--set", "finish_quantile=1"), "finish_quantile: expected"),
        (("--policy", "maitre", "--set", "preempt=1"), "expected true or false"),
        (("--policy", "elasticflow", "--set", "slots=0.5"), "whole number"),
        (("--policy", "elasticflow", "--set", "cluster_share=2"), "share"),
        (("--policy", "infless", "--set", "keep_alive_cap_s=nan"), "finite"),
        (("--policy", "maitre", "--out", "@nowhere/events.csv"), "no folder"),
        (("--policy", "maitre", "--out", "@"), "is a folder"),
        (("--policy", "maitre", "--figure", "@"), "is a folder"),
    ],
)
def test_wrong_input_is_one_clear_error(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    run(folder, *made)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(folder, "simulate", "--jobs", "@jobs.csv", "--cluster", "@cluster.yaml", *arguments)
    assert not (folder / "events.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--load", "nan"), "load: nan: expected a number above 0"),
        (("--load", "-2"), "load: -2.0: expected a number above 0"),
        (("--slack", "-1"), "slack: -1.0: expected a number above 0"),
        (("--slack", "1", "--slack", "nan"), "slack: nan: expected a number above 0"),
    ],
)
def test_a_workload_of_impossible_numbers_is_refused(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    with pytest.raises(ValueError, match=message):
        run(folder, *made, *arguments)
    assert not (folder / "jobs.csv").exists()


def test_a_negative_seed_is_refused_with_exit_code_2(folder: Path) -> None:
    made = ("generate", "--trace", "@trace.csv", "--cluster", "@cluster.yaml", "--out", "@jobs.csv")
    assert run(folder, *made, "--seed", "-1")[0] == 2
    assert not (folder / "jobs.csv").exists()
