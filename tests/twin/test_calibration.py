"""The fits recover constants that made the data, and hold on the measured tables."""

import numpy as np
import pandas as pd
import pytest

from maitre.twin import ServerProfile, simulate
from maitre.twin.calibration.errors_by_regime import bias_percent, errors, symmetric_error_percent
from maitre.twin.calibration.front import delay_correction_ms, fit_front, fit_scrape
from maitre.twin.calibration.loading import fit_loading
from maitre.twin.calibration.memory import fit_memory
from maitre.twin.calibration.report import write_report
from maitre.twin.calibration.runs import Traffic, adapters_of, simulation_of
from maitre.twin.calibration.step_time import BASE, LORA, fit_base, fit_lora, step_of, terms
from maitre.twin.calibration.tables import STEP_COLUMNS, prefill_ms_of, read_tables


def test_memory_is_recovered():
    slots, ranks = np.meshgrid([8, 64, 128, 384], [8, 16, 32])
    table = pd.DataFrame({"max_loras": slots.ravel(), "max_lora_rank": ranks.ravel()})
    tokens = 300_000.0 - 50 * table["max_loras"] - 44 * table["max_loras"] * table["max_lora_rank"]
    table["kv_cache_tokens"] = tokens.where(tokens >= 131_072)
    memory, fit = fit_memory(table, max_model_len=131_072, block_tokens=16)
    assert memory.base_tokens == pytest.approx(300_000, rel=1e-4)
    assert memory.per_slot_tokens == pytest.approx(50, rel=1e-2)
    assert memory.per_slot_rank_tokens == pytest.approx(44, rel=1e-3)
    assert fit["start_ups_decided_wrongly"] == 0


def test_loading_is_recovered():
    table = pd.DataFrame(
        {
            "adapter_rank": [8, 16, 32] * 2,
            "source": ["cpu_to_gpu_serving"] * 3 + ["disk_to_cpu"] * 3,
            "p50_ms": [6.0, 6.0, 6.0, 60.0, 80.0, 120.0],
        }
    )
    loading, _ = fit_loading(table, switch_ms=3.0)
    assert loading.cpu_to_gpu_ms == pytest.approx(6.0)
    assert loading.disk_to_cpu_per_rank_ms == pytest.approx(2.5)
    assert loading.switch_ms == 3.0


def test_what_a_scrape_costs_is_recovered():
    rng = np.random.default_rng(0)
    stalls = pd.DataFrame({"series": rng.uniform(200, 40_000, 50)})
    stalls["names"] = stalls["series"] * rng.uniform(5, 300, 50)
    stalls["stall_ms"] = 0.012 * stalls["series"] + 1e-4 * stalls["names"]
    assert fit_scrape(stalls) == pytest.approx((0.012, 1e-4), rel=0.02)
    with pytest.raises(ValueError, match="fewer than five runs"):
        fit_scrape(stalls.head(3))


def test_the_fixed_delay_is_a_median_difference():
    assert delay_correction_ms([32.0, 41.0, 90.0], [30.0, 40.0, 50.0]) == 2.0


def test_the_front_is_fitted_to_late_scrapes(profile):
    """Scrapes as late as the profile's own constants make them give these constants back."""
    traffic, duration_s, api = Traffic("sharegpt", 222.4, 195.0), 600.0, profile.api
    runs, samples = [], []
    for place, adapters in enumerate((32, 64, 96, 128, 160, 192)):
        run = {
            "run_id": f"run{place}",
            "rank_classes": "8",
            "rate_classes_rps": "0.05",
            "adapters_per_rate_class": str(adapters),
            "max_loras": 16 + 8 * place,
            "max_cpu_loras": adapters,
            "max_lora_rank": 8,
            "offered_rps_nominal": 0.05 * adapters,
            "duration_s": duration_s,
            "client_collapsed": False,
            "ttft_p50_ms": 50.0,
        }
        late_s = simulate(profile, *simulation_of(run, traffic), 3).scrape_s
        times = np.arange(0.0, duration_s, api.scrape_interval_s + late_s)
        runs.append(run)
        samples.append(pd.DataFrame({"run_id": run["run_id"], "t_s": times}))
    found, fit = fit_front(pd.concat(samples), pd.DataFrame(runs), profile, traffic)
    assert found.scrape_per_series_ms == pytest.approx(api.scrape_per_series_ms, rel=0.02)
    assert found.scrape_per_name_ms == pytest.approx(api.scrape_per_name_ms, rel=0.02)
    assert found.transit_ms == api.transit_ms
    assert fit == {"front_runs": 6, "front_light_runs": 0}


def test_a_missing_prefill_calibration_is_scaled_from_another_model(tmp_path):
    rows = pd.DataFrame({"model": ["big", "big", "small"], "kind": "default_prefill"})
    rows["num_prompts"], rows["step_interval_p50_ms"] = [4096, 4096, 64], [50.0, 60.0, 9.0]
    rows.reindex(columns=["model", *STEP_COLUMNS]).to_parquet(
        tmp_path / "calib_step_latency.parquet"
    )
    assert prefill_ms_of(tmp_path, "big", 0.5) == pytest.approx(27.5)
    with pytest.raises(ValueError, match="no full prefill steps of model 'small'"):
        prefill_ms_of(tmp_path, "small", 0.5)
    with pytest.raises(ValueError, match="scale must be positive"):
        prefill_ms_of(tmp_path, "big", -1.0)


TRUE = {
    **dict.fromkeys(BASE, 0.0),
    **dict.fromkeys(LORA, 0.0),
    "base": 12.0,
    "token": 0.02,
    "kv_token": 5e-5,
    "lora": 1.0,
    "slot": 0.02,
    "adapter": 0.4,
    "adapter_doubling": 0.1,
    "token_slot": 1e-4,
}


def made(rng, count, adapters):
    rows = []
    for _ in range(count):
        batch = rng.uniform(1, 900)
        row = terms(
            batch,
            rng.uniform(0, 800) * (adapters > 0),
            batch,
            batch * rng.uniform(50, 400),
            rng.uniform(1, adapters) if adapters else 0.0,
            rng.choice([8, 64, 300]) if adapters else 0.0,
            rng.choice([8, 16, 32]),
        )
        rows.append({**row, "y": sum(TRUE[name] * row[name] for name in TRUE)})
    return pd.DataFrame(rows).astype(float)


def test_step_time_is_recovered():
    rng = np.random.default_rng(0)
    calibration = pd.concat([made(rng, 60, 0), made(rng, 60, 64)])
    base = fit_base(calibration)
    runs = made(rng, 200, 128).assign(concurrency=1.0)
    found = fit_lora(base, calibration, runs)
    for name in ("base", "kv_token", "slot", "adapter", "adapter_doubling", "token_slot"):
        assert found[name] == pytest.approx(TRUE[name], rel=0.05), name
    step = step_of(found)
    assert step.per_adapter_ms == pytest.approx(0.4, rel=0.05)
    assert step.per_adapter_doubling_ms == pytest.approx(0.1, rel=0.1)


def comparison():
    rng = np.random.default_rng(0)
    measured = rng.uniform(10, 1000, 40)
    frame = pd.DataFrame({"slots": 16, "adapters": [8, 32] * 20, "scenario": "s"})
    for column in ("throughput_tps", "itl_ms", "ttft_ms"):
        frame[column] = measured
        frame[f"{column}_predicted"] = measured * 1.1
    frame["starved"] = frame["starved_predicted"] = frame["client_collapsed"] = False
    frame["validation"] = [False, True] * 20
    return frame


def test_errors_are_those_of_the_paper():
    assert symmetric_error_percent([1.1], [0.9]) == pytest.approx(10.0)
    assert bias_percent([1.1], [0.9]) == pytest.approx(20.0)
    found = errors(comparison())
    assert found["all"]["itl_error_percent"] == pytest.approx(100 * 0.1 / 2.1, abs=0.01)
    assert found["all"]["starvation_missed"] == 0


@pytest.mark.slow
def test_the_report_is_written_whole(tmp_path, profile):
    written = write_report(profile, comparison(), tmp_path / "fit")
    assert {path.suffix for path in written} == {".md", ".csv", ".png"}
    assert all(path.stat().st_size > 0 for path in written)
    assert not list((tmp_path / "fit").glob("*.part*"))


def test_a_run_becomes_a_simulation():
    run = {
        "rank_classes": "8 32",
        "rate_classes_rps": "0.4, 0.1",
        "adapters_per_rate_class": "3 5",
        "max_loras": 4,
        "max_cpu_loras": 8,
        "max_lora_rank": 32,
        "duration_s": 3600.0,
        "client_collapsed": True,
        "inflight_max": 25_000.0,
    }
    loads = adapters_of(run)
    assert sorted(load.rate_rps for load in loads) == [0.1] * 5 + [0.4] * 3
    assert sorted(load.rank for load in loads) == [8] * 4 + [32] * 4
    server, workload = simulation_of(run, Traffic("sharegpt", 222.4, 195.0))
    assert (server.max_loras, server.max_cpu_loras, server.max_lora_rank) == (4, 8, 32)
    assert workload.max_in_flight == 25_000


def test_missing_measurements_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no calib_memory\.parquet"):
        read_tables(tmp_path, "any")
    pd.DataFrame({"model": ["m"]}).to_parquet(tmp_path / "calib_memory.parquet")
    with pytest.raises(ValueError, match="no column 'max_loras'"):
        read_tables(tmp_path, "m")


@pytest.mark.shared
@pytest.mark.parametrize("name", [n for n in ServerProfile.names() if n.startswith("h100")])
def test_every_measured_start_up_is_foretold(shared_data, name):
    profile = ServerProfile.load(name)
    runs = pd.read_parquet(shared_data / "vllm-lora-h100" / "real_runs_share.parquet")
    runs = runs[runs["model"] == profile.base_model]
    refused = runs[runs["status"].str.startswith("oom")]
    served = runs[(runs["status"] == "ok") & ~runs["contaminated"]]
    assert len(refused) > 0
    for frame, starts in ((refused, False), (served, True)):
        pairs = set(zip(frame["max_loras"], frame["max_lora_rank"], strict=True))
        for slots, rank in pairs:
            found = profile.kv_cache_tokens(int(slots), int(rank)) is not None
            assert found == starts, (slots, rank)
