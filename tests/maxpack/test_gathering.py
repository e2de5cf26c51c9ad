"""Waiting for slots: limits of the theory, what the sums make of it, and what the twin shows."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maitre.maxpack.averages import active_adapters
from maitre.maxpack.features import SetSums, adapter_terms
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.gathering import gathering_table, slot_use, wait_for_slots
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.twin import AdapterLoad, ServerConfig, ServerProfile, Workload, simulate

OUTPUT_TOKENS = 195.0
PROFILE = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")


def sums_of(rates: np.ndarray) -> np.ndarray:
    lengths = np.full(len(rates), 222.4), np.full(len(rates), OUTPUT_TOKENS)
    return np.asarray(adapter_terms(rates, *lengths).sum(axis=0))


def test_without_waiting_slots_are_held_as_adapters_run() -> None:
    running = np.array([0.01, 0.3, 2.0, 8.0])
    held, waiting = slot_use(running, 0.0)
    assert held == pytest.approx(1 - np.exp(-running), rel=1e-3)
    assert not waiting.any()


@given(st.floats(0.001, 6.0), st.floats(0.1, 200.0))
def test_who_waits_longer_holds_slots_less(running: float, wait: float) -> None:
    now, later = (slot_use(np.array([running]), w) for w in (wait, 1.5 * wait))
    assert later[0] < now[0]
    assert later[1] > now[1]


@settings(deadline=None)
@given(st.integers(20, 300), st.floats(0.02, 0.15), st.floats(0.012, 0.08), st.floats(0, 0.8))
def test_the_sums_give_the_wait_of_the_theory(
    adapters: int, rate: float, step_s: float, skew: float
) -> None:
    rates = rate * np.exp(skew * np.random.default_rng(adapters).normal(size=adapters))
    running = rates * OUTPUT_TOKENS * step_s
    wait = 12.0
    held, waiting = slot_use(running, wait)
    table = gathering_table()
    found = wait_for_slots(sums_of(rates), held.sum(), step_s, table.slots, table.queue)
    assert found[0] == pytest.approx(wait, rel=0.3)
    assert found[1] == pytest.approx(waiting.sum(), rel=0.3)


@given(st.lists(st.floats(1e-3, 4.0), min_size=1, max_size=60), st.floats(0.011, 2.5))
@example([0.001953125], 2.0)
def test_adapters_in_the_batch_between_the_kept_step_times(
    rates: list[float], step_s: float
) -> None:
    each = np.array(rates)
    exact = -np.expm1(-each * OUTPUT_TOKENS * step_s).sum()
    assert active_adapters(sums_of(each), step_s) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize(("adapters", "slots", "rate"), [(80, 8, 0.08), (150, 16, 0.09)])
def test_the_twin_waits_as_long(adapters: int, slots: int, rate: float) -> None:
    rates = np.full(adapters, rate)
    options = ServerOptions.of_pairs(PROFILE, default_lengths(), [(slots, 16)])
    sets = SetSums(sums_of(rates)[None, :], np.array([16]), np.array([rate]))
    [values] = fluid_features(sets, options, np.array([0]))
    predicted = dict(zip(FLUID_FEATURES, values, strict=True))
    assert predicted["fill_waiting"] < 1 < predicted["fill"]
    config = ServerConfig(max_loras=slots, max_cpu_loras=adapters, max_lora_rank=16)
    loads = [AdapterLoad(f"a{i}", 16, rate) for i in range(adapters)]
    result = simulate(PROFILE, config, Workload(loads, default_lengths(), 3600.0), seed=1)
    assert predicted["queue_wait_ms"] == pytest.approx(result.ttft_ms.mean, rel=0.35)
