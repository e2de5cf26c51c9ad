import itertools
import json
import re
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from maitre.cli import main
from maitre.cli.twin import app
from maitre.errors import UserError
from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import place
from maitre.placement.simulate_plan import check_plan
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
    assert "column 'rank' is missing" in str(found.exception)


def run(*arguments, profile=LLAMA):
    given = [] if profile is None else ["--profile", profile]
    return RUN.invoke(app, ["simulate", *given, *map(str, arguments)])


def report(*arguments, profile=LLAMA):
    found = run(*arguments, "--json", profile=profile)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adapter,rank,rate_rps\na,,0.1\nb,r16,0.1\n", r"row 1: rank \(empty\).*row 2: rank 'r16'"),
        ('adapter,rank,rate_rps\na,8,0.1\nb,16,"1,5"\n', "row 2: rate_rps '1,5'"),
        ("adapter,base_model,rank,rate_rps\na,qwen,8,0.1\n", "row 1: base_model 'qwen' is unknown"),
        ("adapter,rank,rate_rps\na,1024,0.1\n", "row 1: rank 1024 is above 512"),
        ("adapter,rank,rate_rps\na,8,0.1,9\n", "row 1: has 5 fields|row 1: has 4 fields"),
    ],
)
def test_a_catalogue_is_read_as_carefully_as_place_reads_it(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    found = run("--catalogue", path)
    assert isinstance(found.exception, UserError), found.output
    assert re.search(message, str(found.exception), re.DOTALL)


def test_names_that_look_like_numbers_stay_names(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("adapter,rank,rate_rps\nNA,8,0.1\n007,24,0.1\n1e5,8,0.1\n12e45678,8,0.1\n")
    document = report("--catalogue", path, "--duration", 20)
    assert [row["adapter"] for row in document["by_adapter"]] == ["NA", "007", "1e5", "12e45678"]
    assert document["config"]["max_lora_rank"] == 32, "vLLM has no slots of rank 24"
    refused = run("--catalogue", path, "--max-lora-rank", 24)
    assert "--max-lora-rank: expected one that vLLM has" in str(refused.exception)


def test_a_server_on_which_requests_wait_is_not_called_healthy(tmp_path):
    """It delivers most of its load, and the time to first token grows."""
    path = tmp_path / "hot.csv"
    pd.DataFrame({"adapter": [f"a{i}" for i in range(96)], "rank": 16, "rate_rps": 0.16}).to_csv(
        path, index=False
    )
    document = report("--catalogue", path, "--max-loras", 8, "--duration", 600)
    assert document["ttft_ms"]["p99"] > 10_000
    assert not document["verdict"]["healthy"]
    assert document["verdict"]["reason"]
    shown = run("--catalogue", path, "--max-loras", 8, "--duration", 600).stdout
    assert "unhealthy: " in shown
    assert "np.float64" not in shown


def test_the_lengths_are_those_that_place_plans_for(catalogue):
    document = report("--catalogue", catalogue, "--duration", 20)
    means = (document["mean_input_tokens"], document["mean_output_tokens"])
    assert means == pytest.approx(default_lengths().means())


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan of one server and its catalogue, as files."""
    folder = tmp_path_factory.mktemp("plan")
    path = folder / "adapters.csv"
    profile = ServerProfile.load(LLAMA)
    frame = pd.DataFrame({"adapter": [f"a{i}" for i in range(24)], "rank": 8, "rate_rps": 0.05})
    frame.assign(base_model=profile.base_model).to_csv(path, index=False)
    plan = place(AdapterCatalogue.read(path), profile, check_duration_s=0.0, baselines=False)
    (folder / "plan.json").write_text(plan.to_json())
    return plan, folder / "plan.json", path


def test_a_server_of_a_plan_is_simulated_as_its_check_does(planned):
    plan, path, adapters = planned
    document = report("--plan", path, "--catalogue", adapters, "--duration", 900, profile=None)
    assert document["config"] == plan.servers[0].config.limits()
    assert document["verdict"]["healthy"]
    profile = ServerProfile.load(LLAMA)
    [checked] = check_plan(plan, profile, AdapterCatalogue.read(adapters), 0, 900.0).servers
    assert document["throughput_tps"] == pytest.approx(checked.throughput_tps)
    assert document["verdict"]["worst_ttft_p99_ms"] == checked.health.worst_ttft_p99_ms


def test_a_plan_needs_a_server_of_its_own_and_a_catalogue(planned):
    _, path, adapters = planned
    wrong = run("--plan", path, "--server", "nosuch", "--catalogue", adapters, profile=None)
    assert "got --server nosuch" in str(wrong.exception)
    assert "--catalogue" in str(run("--plan", path, profile=None).exception)


TRACE = "arrival_s,adapter,input_tokens,output_tokens\n" + "".join(
    f"{1700158546 + 0.5 * i},{'ab'[i % 2]},20,5\n" for i in range(40)
)


def test_a_trace_in_epoch_seconds_is_replayed_from_its_first_arrival(tmp_path, catalogue):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    document = report("--trace", path, "--catalogue", catalogue, "--duration", 30)
    assert document["completed"] == 40
    assert document["offered_tps"] == pytest.approx(40 * 25 / 30)
    assert [row["rank"] for row in document["by_adapter"]] == [8, 16], "those of the catalogue"
    assert document["notes"] == ["arrivals begin at 1700158546.000 s: shifted to 0"]
    short = report("--trace", path, "--duration", 10)
    assert short["offered"] == 20
    assert "20 of 40 requests come after 10 s: left out" in short["notes"]


def test_requests_that_name_no_adapter_are_dealt_by_rate(tmp_path, catalogue):
    path = tmp_path / "trace.csv"
    rows = "".join(f"{i},10,5\n" for i in range(200))
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    document = report("--trace", path, "--catalogue", catalogue)
    a, b = (row["offered"] for row in document["by_adapter"])
    assert a + b == 200
    assert 115 < a < 165, "0.5 of 0.7 requests/s"
    assert document == report("--trace", path, "--catalogue", catalogue, "--seed", "0")
    [alone] = report("--trace", path)["by_adapter"]
    assert alone["adapter"] == "vidur"


def test_an_adapter_of_a_trace_that_the_catalogue_lacks_is_named(tmp_path, catalogue):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE.replace(",b,", ",c,"))
    found = run("--trace", path, "--catalogue", catalogue)
    assert "1 adapters of the trace are not in the catalogue" in str(found.exception)


@pytest.mark.parametrize(
    "options",
    [
        ("--trace", "t.csv", "--cv", 2),
        ("--trace", "t.csv", "--lengths", "sharegpt"),
        ("--trace", "t.csv", "--mean-input-tokens", 9),
        ("--trace", "t.csv", "--mean-output-tokens", 9),
        ("--plan", "p.json", "--max-loras", 9),
        ("--plan", "p.json", "--max-lora-rank", 8),
        ("--plan", "p.json", "--max-num-seqs", 9),
        ("--plan", "p.json", "--max-num-batched-tokens", 9),
        ("--plan", "p.json", "--trace", "t.csv"),
        ("--catalogue", "c.csv", "--format", "azure"),
        ("--catalogue", "c.csv", "--server", "s"),
    ],
)
def test_an_option_without_effect_is_refused(options):
    found = run(*options)
    assert isinstance(found.exception, UserError)
    assert "no effect here" in str(found.exception)


def test_a_trace_that_names_its_adapters_takes_no_seed(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    assert "--seed: no effect here" in str(run("--trace", path, "--seed", 1).exception)


def test_nothing_to_simulate_is_an_error():
    found = run()
    assert isinstance(found.exception, UserError)
    assert "give --catalogue, --trace or --plan" in str(found.exception)
    assert "--profile" in str(run("--catalogue", "c.csv", profile=None).exception)


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
    for number, (slots, rate) in enumerate(itertools.product((4, 8), (0.1, 0.4))):
        run = {
            "run_id": f"run{number}",
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
