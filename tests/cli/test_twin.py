import itertools
import json
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from maitre.cli import main
from maitre.cli.twin import app
from maitre.twin import ServerProfile, simulate
from maitre.twin.calibration.runs import Traffic, simulation_of

RUN = CliRunner()
LLAMA = "h100-64gb/llama-3.1-8b-instruct"


@pytest.fixture
def catalogue(tmp_path):
    path = tmp_path / "adapters.csv"
    pd.DataFrame({"adapter": ["a", "b"], "rank": [8, 16], "rate_rps": [0.5, 0.2]}).to_csv(
        path, index=False
    )
    return path


def test_profiles_are_listed():
    listed = json.loads(RUN.invoke(app, ["profiles", "--json"]).stdout)
    assert LLAMA in [profile["name"] for profile in listed]


def test_a_catalogue_is_simulated(catalogue):
    arguments = ["simulate", "--profile", LLAMA, "--catalogue", str(catalogue)]
    arguments += ["--max-loras", "8", "--duration", "120", "--json"]
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["completed"] > 0
    assert [row["adapter"] for row in report["by_adapter"]] == ["a", "b"]


def test_a_missing_column_is_an_error(tmp_path):
    path = tmp_path / "bad.csv"
    pd.DataFrame({"adapter": ["a"]}).to_csv(path, index=False)
    found = RUN.invoke(app, ["simulate", "--profile", LLAMA, "--catalogue", str(path)])
    assert isinstance(found.exception, ValueError)
    assert "no column 'rank'" in str(found.exception)


def test_neither_catalogue_nor_trace_is_an_error():
    found = RUN.invoke(app, ["simulate", "--profile", LLAMA])
    assert isinstance(found.exception, ValueError)


MODEL = "tiny-model"
TRAFFIC = Traffic("sharegpt", 222.4, 195.0)


def memory_rows(profile):
    for slots, rank in itertools.product((8, 64, 384), (8, 16, 32)):
        room = profile.kv_cache_tokens(slots, rank)
        yield {"max_loras": slots, "max_lora_rank": rank, "kv_cache_tokens": room}


def loading_rows(profile):
    for rank in (8, 16, 32):
        gpu, disk = profile.load_ms(rank)
        gpu -= profile.loading.switch_ms
        yield {"adapter_rank": rank, "source": "cpu_to_gpu_serving", "p50_ms": gpu}
        yield {"adapter_rank": rank, "source": "disk_to_cpu", "p50_ms": disk}


def step_rows():
    """Steps of 13 ms and 0.02 ms a sequence, and 0.3 ms an adapter."""
    for batch, adapters in itertools.product((1, 32, 128, 400), (0, 8, 32)):
        yield {
            "kind": "adapters_in_batch" if adapters else "default_decode",
            "set_max_num_seqs": batch,
            "set_max_loras": adapters,
            "max_lora_rank": 8,
            "set_output_len": 100,
            "served_adapters": adapters,
            "num_prompts": batch,
            "completed": batch,
            "total_input_tokens": 200 * batch,
            "median_itl_ms": 13 + 0.02 * batch + 0.3 * min(adapters, batch),
            "step_interval_p50_ms": float("nan"),
            "adapters_in_batch_mean": min(adapters, batch),
        }


OUTPUT_SHARE = TRAFFIC.mean_output_tokens / (TRAFFIC.mean_input_tokens + TRAFFIC.mean_output_tokens)


def run_rows(profile):
    """What the shipped profile predicts of a few short runs, as if it had been measured."""
    for place, (slots, rate) in enumerate(itertools.product((4, 8), (0.1, 0.4))):
        run = {
            "run_id": f"run{place}",
            "scenario": f"rate-{rate}",
            "status": "ok",
            "contaminated": False,
            "kv_anomaly": False,
            "client_collapsed": False,
            "max_loras": slots,
            "max_cpu_loras": 8,
            "max_lora_rank": 16,
            "rank_classes": "16",
            "rate_classes_rps": str(rate),
            "adapters_per_rate_class": "8",
            "offered_rps_nominal": 8 * rate,
            "duration_s": 120.0,
            "pool_mean_output_tokens": 195.0,
            "inflight_max": 100.0,
        }
        result = simulate(profile, *simulation_of(run, TRAFFIC), seed=5)
        yield {
            **run,
            "completed": result.completed,
            "total_throughput_tps": result.throughput_tps,
            "output_throughput_tps": result.throughput_tps * OUTPUT_SHARE,
            "throughput_ratio": result.throughput_ratio,
            "ttft_mean_ms": result.ttft_ms.mean,
            "itl_mean_ms": result.itl_ms.mean,
            "running_mean": result.running_mean,
        }


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    profile, folder = ServerProfile.load(LLAMA), tmp_path_factory.mktemp("tables")
    for name, rows in (
        ("calib_memory", memory_rows(profile)),
        ("calib_loading", loading_rows(profile)),
        ("calib_step_latency", step_rows()),
        ("real_runs_share", run_rows(profile)),
    ):
        pd.DataFrame(rows).assign(model=MODEL).to_parquet(folder / f"{name}.parquet")
    return folder


def calibrate(tables, folder, *more):
    arguments = ["calibrate", str(tables), "--start", LLAMA, "--base-model", MODEL]
    arguments += ["--out", str(folder / "made" / "tiny.yaml"), "--report", str(folder / "report")]
    return [*arguments, "--rounds", "1", "--json", *more]


@pytest.mark.slow
def test_a_profile_is_calibrated_and_reported(tables, tmp_path):
    arguments = calibrate(tables, tmp_path, "--name", "lab/tiny", "--validation", "rate-0.4")
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    made = ServerProfile.load(tmp_path / "made" / "tiny.yaml")
    assert (made.name, made.base_model) == ("lab/tiny", MODEL)
    assert made.fingerprint() == document["fingerprint"]
    assert made.provenance["validation_scenarios"] == ["rate-0.4"]
    assert (made.fit["validation_runs"], made.fit["fit_runs"]) == (2, 2)
    assert document["errors"]["fit"]["all"]["itl_error_percent"] < 5
    shipped = ServerProfile.load(LLAMA)
    assert made.memory.base_tokens == pytest.approx(shipped.memory.base_tokens, rel=1e-3)
    assert made.api == shipped.api
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "comparison.csv", "throughput.png", "itl.png", "ttft.png"}
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--validation", "nope"], "validation scenario 'nope'"),
        (["--validation", "rate-0.1", "--validation", "rate-0.4"], "no run is left to fit"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--prefill-scale", "2"], "--prefill-from, which is not given"),
        (["--prefill-from", MODEL], "no full prefill steps of model"),
        (["--base-model", "other"], "no rows for model 'other'"),
        (["--fit-front"], "no column 'ttft_p50_ms'"),
    ],
)
def test_a_calibration_that_cannot_be_done_writes_nothing(
    tables, tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.setattr(sys, "argv", ["maitre", "twin", *calibrate(tables, tmp_path, *more)])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
