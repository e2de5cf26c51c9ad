"""Re-placement: few moves, nothing lost, nobody unserved."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from maitre.maxpack.options import default_lengths
from maitre.placement import verify_and_repair as verify
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment
from maitre.placement.match_servers import match_servers
from maitre.placement.place import place
from maitre.placement.plan import AdapterShare, PlacementPlan
from maitre.placement.relocate import carried_over
from maitre.placement.replan import MoveBudget, replan, replan_and_check
from maitre.placement.replicas import as_is
from maitre.placement.settings import PlacementSettings
from maitre.twin import ServerProfile


@pytest.fixture(scope="module")
def catalogue() -> AdapterCatalogue:
    rng = np.random.default_rng(4)
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(300)],
                "base_model": "llama-3.1-8b-instruct",
                "rank": rng.choice([8, 16, 32], 300),
                "rate_rps": np.exp(rng.normal(np.log(0.2), 1.2, 300)).clip(0.001, 8),
            }
        )
    )


@pytest.fixture(scope="module")
def plan(catalogue: AdapterCatalogue, profile: ServerProfile) -> PlacementPlan:
    return place(catalogue, profile, check_duration_s=0, baselines=False)


@pytest.mark.slow
def test_unchanged_rates_move_nobody(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    assert plan.diff(replan(plan, catalogue, profile)).empty


@pytest.mark.slow
def test_changed_rates_move_few(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    rng = np.random.default_rng(1)
    rates = catalogue.rates_rps.copy()
    changed = rng.choice(len(rates), 15, replace=False)
    rates[changed] *= np.where(rng.random(15) < 0.5, 2.0, 0.5)
    after = replan(plan, catalogue.with_rates(rates), profile)
    diff = plan.diff(after)
    assert set(after.servers_of()) == set(catalogue.names)
    assert len(diff.moves) <= 9
    assert abs(after.gpus - plan.gpus) <= 1
    assert max(s.predicted.starvation_risk for s in after.servers) <= 0.01


@pytest.mark.slow
def test_new_and_removed_adapters(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    frame = catalogue.frame().iloc[10:]
    frame.loc[frame.index[0], "adapter"] = "newcomer"
    after = replan(plan, AdapterCatalogue.from_frame(frame), profile)
    diff = plan.diff(after)
    assert diff.adapters_added == ("newcomer",)
    assert len(diff.adapters_removed) == 11
    assert not diff.moves


@pytest.mark.slow
def test_closing_servers_needs_a_budget(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    calm = catalogue.with_rates(catalogue.rates_rps * 0.4)
    kept = replan(plan, calm, profile)
    fewer = replan(plan, calm, profile, max_closing_moves=150)
    assert kept.gpus == plan.gpus
    assert fewer.gpus < plan.gpus
    assert len(plan.diff(fewer).moves) <= 150


def test_an_adapter_hotter_than_a_server_is_divided(profile: ServerProfile) -> None:
    dozen = few(0.2, 12)
    plan = place(dozen, profile, check_duration_s=0, baselines=False)
    rates = dozen.rates_rps.copy()
    rates[3] = 60.0
    after = replan(plan, dozen.with_rates(rates), profile)
    shares = after.servers_of()["a3"]
    assert len(shares) >= 2
    assert sum(shares.values()) == pytest.approx(1.0)
    assert not after.evidence.servers_over_risk
    assert max(server.predicted.starvation_risk for server in after.servers) <= 0.05
    rates[3] = 1e9
    with pytest.raises(ValueError, match=r"a3.*fits no server"):
        replan(plan, dozen.with_rates(rates), profile)


UNCHECKED = PlacementSettings(check_duration_s=0.0, baselines=False)
CHECKED = PlacementSettings(check_duration_s=300.0, baselines=False, workers=1)


def few(rate_rps: float, adapters: int = 40, rank: int = 8) -> AdapterCatalogue:
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(adapters)],
                "base_model": "llama-3.1-8b-instruct",
                "rank": rank,
                "rate_rps": rate_rps,
            }
        )
    )


def servers_at(profile: ServerProfile, rate_rps: float) -> PlacementPlan:
    return place(few(rate_rps), profile, check_duration_s=0, baselines=False)


@pytest.mark.parametrize("factor", [0.1, 0.4])
def test_far_lower_rates_close_servers_as_a_fresh_plan_does(
    profile: ServerProfile, factor: float
) -> None:
    plan = servers_at(profile, 1.5)
    calm = few(1.5 * factor)
    after = replan(plan, calm, profile, max_closing_moves=2000)
    assert plan.gpus > after.gpus
    assert after.gpus == place(calm, profile, check_duration_s=0, baselines=False).gpus


def test_a_server_that_cannot_be_emptied_does_not_keep_the_next_from_closing(
    profile: ServerProfile,
) -> None:
    """The emptiest server holds what no other may take: its only adapter is on each of them."""
    plan = servers_at(profile, 1.5)
    first, *others = plan.servers
    servers = (
        replace(first, adapters=(AdapterShare("wide", 1 / len(plan.servers)),)),
        *(
            replace(
                server, adapters=(*server.adapters, AdapterShare("wide", 1 / len(plan.servers)))
            )
            for server in others
        ),
    )
    held = {share.adapter for server in servers for share in server.adapters}
    frame = few(0.1).frame()
    frame = frame[frame["adapter"].isin(held)]
    wide = frame.iloc[:1].assign(adapter="wide")
    calm = AdapterCatalogue.from_frame(pd.concat([frame, wide], ignore_index=True))
    after = replan(replace(plan, servers=servers), calm, profile, max_closing_moves=2000)
    assert after.gpus == 1


def test_one_adapter_of_a_larger_rank_moves_to_a_server_that_takes_it(
    profile: ServerProfile,
) -> None:
    frame = few(1.0, 60).frame()
    frame.loc[45:, "rank"] = 32
    before = AdapterCatalogue.from_frame(frame)
    plan = place(before, profile, check_duration_s=0, baselines=False)
    assert {server.config.max_lora_rank for server in plan.servers} == {8, 32}
    frame.loc[0, "rank"] = 32
    after = replan(plan, AdapterCatalogue.from_frame(frame), profile)
    assert after.gpus == plan.gpus
    assert_ranks_fit(after, AdapterCatalogue.from_frame(frame))


@pytest.mark.parametrize("moves", [None, 0])
def test_where_ranks_change_every_server_still_holds_its_ranks(
    profile: ServerProfile, moves: int | None
) -> None:
    frame = few(0.5, 60).frame()
    plan = place(AdapterCatalogue.from_frame(frame), profile, check_duration_s=0, baselines=False)
    # New adapters come too: placing one must not hide that a server's rank no longer suffices.
    frame.loc[[3, 17, 40], "rank"] = 32
    new = frame.iloc[:5].assign(adapter=[f"new{i}" for i in range(5)], rank=8)
    wider = AdapterCatalogue.from_frame(pd.concat([frame, new], ignore_index=True))
    after = replan(plan, wider, profile, max_moves=moves)
    assert_ranks_fit(after, wider)
    assert after.gpus <= place(wider, profile, check_duration_s=0, baselines=False).gpus + 1


def assert_ranks_fit(plan: PlacementPlan, catalogue: AdapterCatalogue) -> None:
    rank = dict(zip(catalogue.names, catalogue.ranks, strict=True))
    for server in plan.servers:
        assert max(rank[held.adapter] for held in server.adapters) <= server.config.max_lora_rank


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_change_ends_within_a_server_of_a_fresh_plan(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = catalogue.frame()
    frame["rate_rps"] *= np.exp(rng.uniform(np.log(0.1), np.log(3.0)))
    frame["rate_rps"] *= np.exp(rng.normal(0.0, 0.5, len(frame)))
    frame.loc[rng.random(len(frame)) < 0.05, "rank"] = 32
    frame = frame[rng.random(len(frame)) > 0.1]
    new = frame.iloc[:30].assign(adapter=[f"new{i}" for i in range(30)])
    changed = AdapterCatalogue.from_frame(pd.concat([frame, new], ignore_index=True))
    fresh = place(changed, profile, check_duration_s=0, baselines=False)
    after = replan(plan, changed, profile, max_moves=400, max_closing_moves=400)
    assert after.gpus <= fresh.gpus + 1
    assert not after.evidence.unsound
    assert_ranks_fit(after, changed)
    for budget in (0, 5, 60):
        some = replan(plan, changed, profile, max_moves=budget, max_closing_moves=budget)
        assert len(plan.diff(some).moves) <= budget


def test_a_matched_packing_keeps_adapters_where_they_run(
    profile: ServerProfile, capacity: Capacity
) -> None:
    """The same sets under other numbers are the same servers; a pinned one goes where it must."""
    catalogue, plan = few(1.5), servers_at(profile, 1.5)
    demand = as_is(catalogue, default_lengths(), 1.05)
    running = carried_over(plan.servers, catalogue.names, demand, capacity)
    other = (running.server + 1) % plan.gpus
    fresh = Assignment.judged(other, demand, capacity)
    matched = match_servers(fresh, demand, running, capacity)
    assert np.array_equal(matched.server, running.server)
    assert np.array_equal(matched.rows, running.rows)
    pinned = match_servers(fresh, demand, running, capacity, pinned_to=(0,))
    assert set(pinned.server[other == 0]) != set(matched.server[other == 0])


def test_a_server_that_fails_in_the_twin_is_relieved_within_the_moves(
    profile: ServerProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin is stricter than the model here: servers over a fill of 0.5 fail."""
    plan = servers_at(profile, 0.8)
    honest = verify.check_servers

    def strict(servers, *args, **kwargs):
        checks = honest(servers, *args, **kwargs)
        return [
            replace(check, health=replace(check.health, healthy=server.predicted.fill <= 0.5))
            for server, check in zip(servers, checks, strict=True)
        ]

    monkeypatch.setattr(verify, "check_servers", strict)
    relieved = replan_and_check(plan, few(0.8), profile, CHECKED, MoveBudget(40))
    assert relieved.evidence.check_passed
    assert relieved.evidence.servers_failed == {}
    assert relieved.evidence.rounds_of_repair
    assert max(server.predicted.fill for server in relieved.servers) <= 0.5
    stuck = replan_and_check(plan, few(0.8), profile, CHECKED, MoveBudget(1))
    assert len(plan.diff(stuck).moves) <= 1
    assert stuck.evidence.check_passed is False
    assert stuck.evidence.unsound == stuck.evidence.servers_failed


def test_without_a_check_the_model_says_which_servers_are_unsound(profile: ServerProfile) -> None:
    plan = servers_at(profile, 0.8)
    after = replan_and_check(plan, few(4.0), profile, UNCHECKED, MoveBudget(0))
    assert after.evidence.check_passed is None
    assert set(after.evidence.unsound) == set(after.evidence.servers_over_risk)
    assert after.evidence.unsound
