"""Filling servers: even risk, moves and swaps, and plans of which only the twin is sure."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.maxpack.health import Health, HealthRule
from maitre.maxpack.options import default_lengths
from maitre.placement import verify_and_repair as verify
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment, fill_in_order
from maitre.placement.demand import Demand
from maitre.placement.level_load import least_risky, level_load
from maitre.placement.local_search import balanced
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.placement.remove_server import judged_by_twin, on_fewer_servers
from maitre.placement.replan import replan
from maitre.placement.replicas import as_is
from maitre.placement.search import fewest_servers, orders
from maitre.placement.simulate_plan import ServerCheck, check_plan
from maitre.placement.verify_and_repair import relieve
from maitre.twin import ServerProfile


def demand_of(rates: np.ndarray, ranks: np.ndarray, **more: np.ndarray) -> Demand:
    mean_in, mean_out = default_lengths().means()
    ones = np.ones(len(rates))
    return Demand.of(rates, ranks, mean_in * ones, mean_out * ones, **more)


def mixed(count: int, seed: int) -> Demand:
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(np.log(0.3), 1.2, count)).clip(0.001, 8)
    return demand_of(rates, rng.choice([8, 16, 32], count, p=[0.5, 0.35, 0.15]))


def test_evening_lowers_the_highest_risk_on_as_many_servers(capacity: Capacity) -> None:
    demand = mixed(300, 0)
    order = next(orders(demand, capacity))
    chain = fill_in_order(demand, order, capacity)
    assert chain is not None
    even = level_load(chain, order, demand, capacity)
    assert even.servers == chain.servers
    assert even.risk.max() < chain.risk.max()


def test_the_least_risk_is_none_where_the_servers_do_not_suffice(capacity: Capacity) -> None:
    demand = mixed(300, 0)
    order = next(orders(demand, capacity))
    assert least_risky(1, order, demand, capacity) is None


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(20, 120), st.integers(2, 5), st.integers(0, 10**6))
def test_moves_and_swaps_never_make_it_worse_and_lose_nobody(
    capacity: Capacity, count: int, servers: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(np.log(100.0 / count), 1.0, count))
    pin = np.where(np.arange(count) < servers, np.arange(count) % 2, -1)
    twice = np.ones(count, dtype=np.int64)
    twice[-1] = 2
    demand = demand_of(rates, rng.choice([8, 32], count), replicas=twice, pin=pin)
    before = Assignment.judged(np.arange(len(demand)) % servers, demand, capacity)
    after = balanced(before, demand, capacity, rounds=20, seed=seed)
    assert after.servers == before.servers
    assert cost(after) <= cost(before) + 1e-9
    stays = demand.is_pinned | (demand.adapter == count - 1)
    assert np.array_equal(after.server[stays], before.server[stays])
    # What it says of the servers is what the capacity says of them.
    again = capacity.best(demand.sums(after.server, after.servers), after.rows)
    assert again.risk == pytest.approx(after.risk, abs=1e-9)
    largest = capacity.options.max_lora_rank[after.rows]
    assert np.all(demand.rank <= largest[after.server])


def test_moves_level_what_a_deal_left_uneven(capacity: Capacity) -> None:
    rates = np.array([16.0] * 4 + [0.5] * 4)
    demand = demand_of(rates, np.full(8, 8))
    uneven = Assignment.judged(np.array([0, 0, 0, 0, 1, 1, 1, 1]), demand, capacity)
    assert uneven.risk.max() > 0.9
    assert balanced(uneven, demand, capacity).risk.max() < 0.01


@pytest.mark.slow
def test_fewer_servers_are_riskier_but_within_what_the_twin_may_judge(capacity: Capacity) -> None:
    fuller = []
    for seed in range(6):
        demand = mixed(300, seed)
        found = fewest_servers(demand, capacity)
        assert found is not None
        fewer = on_fewer_servers(found, demand, capacity)
        if fewer is not None:
            fuller.append(fewer)
            assert fewer.servers < found.servers
            assert fewer.risk.max() <= judged_by_twin(capacity).risk
    assert fuller


def test_the_twin_is_asked_about_more_risk_but_never_about_much() -> None:
    asked = [judged_by_twin(_Risk(risk)).risk for risk in (0.001, 0.01, 0.2, 0.4)]
    assert asked == pytest.approx([0.01, 0.1, 0.3, 0.4])


@pytest.fixture(scope="module")
def catalogue() -> AdapterCatalogue:
    """Two servers by a cautious model, one by a bolder one."""
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(60)],
                "base_model": "llama-3.1-8b-instruct",
                "rank": 8,
                "rate_rps": 0.5,
            }
        )
    )


@pytest.fixture(scope="module")
def barely_two(catalogue: AdapterCatalogue, capacity: Capacity) -> AdapterCatalogue:
    """Rates at which one server is a little over the risk that the model is sure of."""
    for factor in np.arange(0.5, 3.0, 0.004):
        hotter = catalogue.with_rates(catalogue.rates_rps * factor)
        demand = as_is(hotter, default_lengths(), 1.05)
        risk = capacity.best(demand.sums(np.zeros(len(demand), dtype=np.int64), 1)).risk[0]
        if 2 * capacity.risk < risk < 5 * capacity.risk:
            return hotter
    raise AssertionError("no such rates")


@pytest.fixture(scope="module")
def filled(barely_two: AdapterCatalogue, profile: ServerProfile) -> PlacementPlan:
    return place(barely_two, profile, check_duration_s=900.0, baselines=False, workers=1)


@pytest.mark.slow
def test_the_twin_fills_servers_of_which_the_model_is_not_sure(
    filled: PlacementPlan, barely_two: AdapterCatalogue, profile: ServerProfile
) -> None:
    unchecked = place(barely_two, profile, check_duration_s=0, baselines=False)
    assert unchecked.gpus == 2
    assert filled.gpus == 1
    assert filled.evidence.filled_by == "twin"
    assert filled.evidence.rate_factor == pytest.approx(1.05 * (1 + verify.JUDGED_MARGIN))
    assert filled.servers[0].predicted.accepted_risk > 0.01
    check = check_plan(
        filled, profile, barely_two, 77, 900.0, rate_factor=1.05, rule=HealthRule(), workers=1
    )
    assert check.passed


def test_a_server_that_the_twin_refuses_is_not_filled(
    barely_two: AdapterCatalogue, profile: ServerProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify.check_servers

    def strict(servers, *args, rate_factor, **kwargs):
        checks = honest(servers, *args, rate_factor=rate_factor, **kwargs)
        return [_failed(check) for check in checks] if rate_factor > 1.06 else checks

    monkeypatch.setattr(verify, "check_servers", strict)
    plan = place(barely_two, profile, check_duration_s=300.0, baselines=False, workers=1)
    assert plan.gpus == 2
    assert plan.evidence.filled_by == "model"
    assert plan.servers[0].predicted.accepted_risk is None


def test_a_filled_server_is_left_alone_while_rates_stay(
    filled: PlacementPlan, barely_two: AdapterCatalogue, profile: ServerProfile
) -> None:
    assert filled.diff(replan(filled, barely_two, profile, tolerated_risk=0.01)).empty
    wobble = replan(filled, barely_two.with_rates(barely_two.rates_rps * 1.002), profile)
    assert filled.diff(wobble).empty
    assert wobble.servers[0].predicted.accepted_risk > 0.01
    hotter = replan(filled, barely_two.with_rates(barely_two.rates_rps * 1.1), profile)
    assert hotter.gpus == 2


def cost(found: Assignment) -> float:
    """Risks and overload of all servers."""
    return float((found.risk + np.maximum(found.fill - 1, 0)).sum())


def _failed(check: ServerCheck) -> ServerCheck:
    return replace(check, health=Health(False, False, True, 0.5, np.inf, np.inf, ()))


def _Risk(risk: float) -> Capacity:  # noqa: N802
    return Capacity(None, None, risk, 1)


def test_relief_keeps_replicas_apart(capacity: Capacity) -> None:
    rates = np.array([4.0, 2.0, 2.0])
    demand = demand_of(rates, np.full(3, 8), replicas=np.array([2, 1, 1]))
    # Both replicas of the first adapter and one other each, on two servers.
    found = Assignment.judged(np.array([0, 1, 0, 1]), demand, capacity)
    relieved = relieve(found, np.array([0]), demand, capacity, part=0.9)
    replicas = relieved.server[demand.adapter == 0]
    assert relieved.server[0] != found.server[0]
    assert replicas[0] != replicas[1]
