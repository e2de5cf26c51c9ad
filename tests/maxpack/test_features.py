"""Additive features: O(1) updates and the steady state computed from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.maxpack.features import STEP_TIMES_S, TERMS, SetSums, adapter_terms
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.slots import roomiest_rows
from maitre.twin import ServerProfile

PROFILE = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
OPTIONS = ServerOptions.of(PROFILE, default_lengths())
FILL = FLUID_FEATURES.index("fill")
rate_lists = st.lists(st.floats(0, 20), min_size=1, max_size=40)


def terms_of(rates: list[float]) -> np.ndarray:
    return adapter_terms(np.array(rates), np.full(len(rates), 222.4), np.full(len(rates), 195.0))


def one_set(rates: list[float], rank: int = 8) -> SetSums:
    terms = terms_of(rates)
    return SetSums.of_groups(terms, np.full(len(rates), rank), np.zeros(len(rates), int), 1)


@given(rate_lists)
def test_adding_one_adapter_equals_summing_anew(rates: list[float]) -> None:
    whole = one_set(rates)
    grown = one_set([0.0])
    for rate in rates:
        grown = grown.plus(terms_of([rate])[0], np.array(8))
    assert np.allclose(grown.sums[0, 1:], whole.sums[0, 1:])
    assert grown.sums[0, 0] == whole.sums[0, 0] + 1
    assert grown.max_rate_rps[0] == whole.max_rate_rps[0]


@given(rate_lists)
def test_prefixes_are_running_sums(rates: list[float]) -> None:
    terms, ranks = terms_of(rates), np.arange(len(rates)) + 1
    sets = SetSums.of_prefixes(terms, ranks, np.arange(1, len(rates) + 1))
    assert np.allclose(sets.sums[-1], terms.sum(axis=0))
    assert sets.max_rank.tolist() == ranks.tolist()


@given(rate_lists)
def test_active_adapters_grow_with_the_step_and_never_exceed_all(rates: list[float]) -> None:
    sums = one_set(rates).sums[0]
    active = sums[-len(STEP_TIMES_S) :]
    assert (np.diff(active) >= -1e-9).all()
    assert active[-1] <= sums[TERMS.index("adapters")] + 1e-9


@pytest.mark.slow
@settings(deadline=None)
@given(rate_lists, st.floats(0.01, 5), st.integers(0, 40))
def test_another_adapter_never_empties_a_server(rates: list[float], more: float, row: int) -> None:
    row %= len(OPTIONS)
    rows = np.array([row])
    before = fluid_features(one_set(rates), OPTIONS, rows)[0, FILL]
    after = fluid_features(one_set([*rates, more]), OPTIONS, rows)[0, FILL]
    assert after >= before - 1e-6


def test_fill_is_one_where_an_idle_server_turns_into_a_full_one() -> None:
    rows = np.flatnonzero((OPTIONS.max_loras == 32) & (OPTIONS.max_lora_rank == 8))
    fills = [fluid_features(one_set([r] * 32), OPTIONS, rows)[0, FILL] for r in (0.01, 0.5, 3.0)]
    assert fills[0] < 0.1 < fills[1] < 1 < fills[2]


def test_rank_tiers_hold_the_rank() -> None:
    tiers = OPTIONS.rank_tier(np.array([1, 8, 9, 16, 32, 33]))
    assert tiers.tolist() == [8, 8, 16, 16, 32, 0]


@settings(deadline=None, max_examples=40)
@given(rate_lists, st.sampled_from([8, 16, 32]))
def test_the_search_for_slots_finds_what_trying_all_finds(rates: list[float], rank: int) -> None:
    sets = one_set(rates, rank)
    _, found = roomiest_rows(sets, OPTIONS, np.array([rank]), kept=3)
    enough = OPTIONS.enough_slots(sets.column("adapters"))[0]
    every = np.flatnonzero((OPTIONS.max_lora_rank == rank) & (OPTIONS.max_loras <= enough))
    fills = fluid_features(sets, OPTIONS, every, np.zeros(len(every), int))[:, FILL]
    best = fluid_features(sets, OPTIONS, found[:1])[0, FILL]
    assert best <= fills.min() * (1 + 1e-3)


@settings(deadline=None)
@given(rate_lists, st.integers(0, 40))
def test_requests_that_may_wait_for_slots_fill_a_server_no_more(
    rates: list[float], row: int
) -> None:
    rows = np.array([row % len(OPTIONS)])
    values = fluid_features(one_set(rates), OPTIONS, rows)[0]
    fill, waiting = values[FILL], values[FLUID_FEATURES.index("fill_waiting")]
    assert waiting <= fill + 1e-9
    if fill < 1:
        assert waiting == fill
        assert values[FLUID_FEATURES.index("slot_wait_ms")] == 0
