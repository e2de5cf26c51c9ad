"""What must hold of every simulation, whatever the configuration."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from maitre.twin import AdapterLoad, Burstiness, Lengths, ServerConfig, Workload, simulate

# No shrinking: a simulation is not the quicker to read for it, and takes long.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

CONFIGURATIONS = st.fixed_dictionaries(
    {
        "adapters": st.integers(1, 24),
        "max_loras": st.integers(1, 12),
        "rate_rps": st.floats(0.05, 3.0),
        "kv_cache_tokens": st.integers(160, 40_000),
        "max_num_seqs": st.integers(1, 64),
        "max_num_batched_tokens": st.integers(64, 2048),
        "mean_input_tokens": st.floats(5, 300),
        "mean_output_tokens": st.floats(1, 200),
        "max_in_flight": st.one_of(st.none(), st.integers(1, 50)),
        "cv": st.sampled_from([1.0, 3.0]),
        "metrics_scrape_s": st.sampled_from([0.0, 2.0]),
        "seed": st.integers(0, 1000),
    }
)


def build(config: dict) -> tuple[ServerConfig, Workload]:
    server = ServerConfig(
        max_loras=config["max_loras"],
        max_cpu_loras=max(config["max_loras"], config["adapters"] // 2),
        max_lora_rank=16,
        max_num_seqs=config["max_num_seqs"],
        max_num_batched_tokens=config["max_num_batched_tokens"],
        kv_cache_tokens=config["kv_cache_tokens"],
        metrics_scrape_s=config["metrics_scrape_s"],
    )
    workload = Workload(
        adapters=[
            AdapterLoad(f"a{place}", 8 if place % 2 else 16, config["rate_rps"] / (1 + place % 3))
            for place in range(config["adapters"])
        ],
        lengths=Lengths.named(
            "sharegpt", config["mean_input_tokens"], config["mean_output_tokens"]
        ),
        duration_s=60.0,
        max_in_flight=config["max_in_flight"],
        burstiness=Burstiness("gamma", cv=config["cv"]) if config["cv"] > 1 else Burstiness(),
    )
    return server, workload


@settings(max_examples=40, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=CONFIGURATIONS)
def test_a_leap_is_the_same_as_its_steps(profile, config):
    server, workload = build(config)
    leap = simulate(profile, server, workload, seed=config["seed"])
    step = simulate(profile, server, workload, seed=config["seed"], leap=False)
    for field in ("offered", "completed", "lost", "unservable", "preemptions", "steps"):
        assert getattr(leap, field) == getattr(step, field), field
    assert leap.throughput_tps == step.throughput_tps
    for field in ("running_mean", "waiting_mean", "active_adapters_mean"):
        assert getattr(leap, field) == pytest.approx(getattr(step, field), rel=1e-6, abs=1e-9)
    # Only in a leap that the end cuts short are the blocks in use taken to grow evenly.
    assert leap.kv_usage_mean == pytest.approx(step.kv_usage_mean, rel=0.05, abs=1e-3)
    assert leap.ttft_ms.mean == pytest.approx(step.ttft_ms.mean, rel=1e-6, nan_ok=True)
    assert leap.itl_ms.mean == pytest.approx(step.itl_ms.mean, rel=1e-3, nan_ok=True)
    assert leap.events <= step.events


@settings(max_examples=40, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=CONFIGURATIONS)
def test_nothing_is_lost_or_exceeds_its_limit(profile, config):
    server, workload = build(config)
    result = simulate(profile, server, workload, seed=config["seed"], trace_rows=20_000)
    blocks = config["kv_cache_tokens"] // profile.memory.block_tokens
    assert result.offered == (
        result.completed + result.in_flight_end + result.lost + result.unservable
    )
    assert result.active_adapters_max <= config["max_loras"]
    assert result.running_max <= config["max_num_seqs"]
    assert 0.0 <= result.kv_usage_mean <= result.kv_usage_max <= 1.0
    table = result.by_adapter()
    assert table["completed"].sum() == result.completed
    assert table["offered"].sum() == result.offered
    assert table["throughput_tps"].sum() == pytest.approx(result.throughput_tps)
    assert (table["completed"] <= table["offered"]).all()
    trace = result.trace[result.trace["steps"] > 0]
    used = blocks - trace["free_blocks"]
    assert (trace["free_blocks"] >= 0).all()
    # Blocks hold the tokens, with at most one part-filled or just taken block a request.
    block_tokens = profile.memory.block_tokens
    assert (used * block_tokens >= trace["kv_tokens"]).all()
    assert (used * block_tokens <= trace["kv_tokens"] + trace["running"] * block_tokens).all()
    assert (trace["prefill"] + trace["decoding"] <= config["max_num_batched_tokens"]).all()
    assert (trace["decoding"] <= trace["running"]).all()
    assert (trace["scanned"] >= 0).all()
    assert (trace["scanned"] <= trace["waiting"] + 1e-9).all()
    assert (np.diff(trace["now_s"]) >= 0).all()


def test_an_idle_end_leaves_the_server_empty(profile):
    # Arrivals only in the first seconds: everything that was sent must come back.
    import pandas as pd

    frame = pd.DataFrame(
        {
            "arrival_s": np.linspace(0, 5, 200),
            "adapter": [f"a{place % 7}" for place in range(200)],
            "input_tokens": 50,
            "output_tokens": 40,
        }
    )
    server = ServerConfig(3, 7, 8, kv_cache_tokens=4096)
    result = simulate(profile, server, Workload.from_trace(frame, duration_s=300.0))
    assert result.completed == result.offered == 200
    assert result.in_flight_end == 0
    assert result.throughput_tps == pytest.approx(200 * 90 / 300.0)
    assert result.timeline()["kv_usage"].iloc[-1] == 0.0


@settings(max_examples=15, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=CONFIGURATIONS)
def test_more_kv_cache_does_not_lower_throughput(profile, config):
    config = {**config, "kv_cache_tokens": max(config["kv_cache_tokens"], 4096), "cv": 1.0}
    server, workload = build(config)
    more_server, _ = build({**config, "kv_cache_tokens": 2 * config["kv_cache_tokens"]})
    less = simulate(profile, server, workload, seed=config["seed"])
    more = simulate(profile, more_server, workload, seed=config["seed"])
    noise = 0.1 * less.throughput_tps + 20 * 500 / workload.duration_s
    assert more.throughput_tps >= less.throughput_tps - noise


def test_the_same_seed_gives_the_same_result(profile, sharegpt):
    server = ServerConfig(4, 8, 16)
    workload = Workload([AdapterLoad(f"a{i}", 8, 0.3) for i in range(8)], sharegpt, 120.0)
    first, again = (simulate(profile, server, workload, seed=5) for _ in range(2))
    other = simulate(profile, server, workload, seed=6)
    assert first.summary() == again.summary()
    assert first.throughput_tps != other.throughput_tps


def test_a_request_larger_than_the_kv_cache_is_reported(profile):
    server = ServerConfig(2, 2, 8, kv_cache_tokens=64)
    workload = Workload([AdapterLoad("a", 8, 1.0)], Lengths.fixed(100, 50), 60.0)
    result = simulate(profile, server, workload)
    assert result.unservable == result.offered > 0
    assert result.completed == 0
    assert result.starved


def test_requests_over_the_clients_limit_are_lost(profile, sharegpt):
    server = ServerConfig(1, 4, 8)
    workload = Workload(
        [AdapterLoad(f"a{i}", 8, 20.0) for i in range(4)], sharegpt, 60.0, max_in_flight=100
    )
    result = simulate(profile, server, workload)
    assert result.lost > 0
    assert result.in_flight_end <= 100
    assert result.waiting_max <= 100


def test_one_adapter_can_starve_while_the_total_looks_well(profile, sharegpt):
    loads = [AdapterLoad("busy", 8, 12.0), AdapterLoad("quiet", 8, 0.05)]
    result = simulate(
        profile, ServerConfig(1, 2, 8, max_num_seqs=128), Workload(loads, sharegpt, 900.0)
    )
    table = result.by_adapter().set_index("adapter")
    assert not result.starved
    assert table.loc["busy", "throughput_ratio"] > 0.95
    assert table.loc["quiet", "throughput_ratio"] < 0.5


def test_preempted_requests_keep_their_tokens_and_finish(profile):
    server = ServerConfig(4, 4, 8, kv_cache_tokens=2048, metrics_scrape_s=0)
    workload = Workload([AdapterLoad("a", 8, 2.0)], Lengths.fixed(64, 400), 600.0)
    result = simulate(profile, server, workload)
    assert result.preemptions > 0
    assert result.completed > 100
    assert result.output_tps == pytest.approx(result.completed * 400 / 600.0)


def test_waiting_requests_that_are_passed_over_make_the_steps_longer(profile, sharegpt):
    loads = [AdapterLoad(f"a{i}", 8, 0.4) for i in range(32)]
    workload = Workload(loads, sharegpt, 120.0)
    walked = simulate(profile, ServerConfig(8, 32, 8), workload, trace_rows=5000)
    free = profile.model_copy(
        update={"step": profile.step.model_copy(update={"per_waiting_ms": 0.0})}
    )
    unwalked = simulate(free, ServerConfig(8, 32, 8), workload, trace_rows=5000)
    assert walked.trace["scanned"].max() > 100
    assert walked.completed < unwalked.completed
    # With a slot for every adapter nothing is passed over.
    roomy = simulate(profile, ServerConfig(32, 32, 8), workload, trace_rows=5000)
    assert roomy.trace["scanned"].max() == 0
