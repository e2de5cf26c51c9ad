"""Pins, replicas, limits on GPUs, several kinds of GPU, what-if adapters and explanations."""

import numpy as np
import pytest

from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.explain import explain_adapter, one_fewer
from maitre.placement.gpu_kinds import GpuKind, place_at_lowest_cost
from maitre.placement.place import place
from maitre.placement.replan import replan
from maitre.placement.replicas import separated
from maitre.placement.settings import PlacementError, PlacementSettings
from maitre.placement.whatif import Addition, AdditionError, with_added
from maitre.twin import ServerProfile
from tests.placement.test_place import assert_sound, catalogue_of, mixed_catalogue

UNCHECKED = {"check_duration_s": 0, "baselines": False}


@pytest.mark.slow
def test_a_pinned_adapter_is_on_its_server(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(150)
    pins = {"a3": "gold", "a77": "gold", "a9": "silver"}
    plan = place(catalogue, profile, pins=pins, **UNCHECKED)
    assert_sound(plan, catalogue)
    placed = plan.servers_of()
    assert all(set(placed[adapter]) == {server} for adapter, server in pins.items())
    assert len(next(s for s in plan.servers if s.name == "gold").adapters) > 2
    calm = catalogue.with_rates(catalogue.rates_rps * 0.3)
    after = replan(plan, calm, profile, max_closing_moves=150, pins=pins)
    assert set(after.servers_of()["a9"]) == {"silver"}
    with pytest.raises(CatalogueError, match="'stranger' is in no row"):
        place(catalogue, profile, pins={"stranger": "gold"}, **UNCHECKED)


@pytest.mark.slow
def test_wanted_replicas_are_on_servers_of_their_own(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(150)
    plan = place(catalogue, profile, replicas={"a0": 3, "a5": 2}, **UNCHECKED)
    assert_sound(plan, catalogue)
    assert len(plan.servers_of()["a0"]) == 3
    assert len(plan.servers_of()["a5"]) == 2


def test_a_replica_joins_a_server_that_has_room(profile: ServerProfile, capacity: Capacity) -> None:
    """Two replicas share the first server; the second one has room, and nothing to swap with."""
    rates = np.array([2.0, 0.5])
    tokens = np.full(2, 200.0)
    demand = Demand.of(rates, np.full(2, 8), tokens, tokens, np.array([2, 2]))
    found = Assignment.judged(np.array([0, 0, 0, 1]), demand, capacity)
    apart = separated(found, demand, capacity, np.array([0]))
    assert apart.servers == 2
    assert apart.server[0] != apart.server[1]


@pytest.mark.slow
def test_more_gpus_shorten_the_steps(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(200)
    fewest = place(catalogue, profile, **UNCHECKED)
    more = place(catalogue, profile, gpus=2 * fewest.gpus, **UNCHECKED)
    assert_sound(more, catalogue)
    assert fewest.gpus < more.gpus <= 2 * fewest.gpus
    slowest = [max(s.predicted.itl_ms for s in plan.servers) for plan in (fewest, more)]
    assert slowest[1] < slowest[0]
    with pytest.raises(PlacementError, match="are needed"):
        place(catalogue, profile, gpus=1, **UNCHECKED)


@pytest.mark.slow
def test_the_cheaper_of_two_kinds_is_taken(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(60)
    memory = profile.memory.model_copy(update={"base_tokens": profile.memory.base_tokens // 2})
    small = profile.model_copy(update={"name": "small/llama", "memory": memory})
    settings = PlacementSettings(check_duration_s=0, baselines=False)
    alone = place(catalogue, profile, **UNCHECKED)
    dear = place_at_lowest_cost(catalogue, [GpuKind(profile, 4.0), GpuKind(small, 3.9)], settings)
    assert dear.evidence.price_per_hour <= 4.0 * alone.gpus
    cheap = place_at_lowest_cost(catalogue, [GpuKind(profile, 4.0), GpuKind(small, 0.1)], settings)
    assert cheap.profile == "small/llama"
    assert cheap.evidence.price_per_hour == pytest.approx(0.1 * cheap.gpus)


@pytest.mark.slow
def test_base_models_are_placed_side_by_side(profile: ServerProfile) -> None:
    other = ServerProfile.load("h100-64gb/qwen-2.5-7b-instruct")
    frame = mixed_catalogue(40).frame()
    frame.loc[20:, "base_model"] = other.base_model
    plan = place_at_lowest_cost(
        AdapterCatalogue.from_frame(frame),
        [GpuKind(profile), GpuKind(other)],
        PlacementSettings(check_duration_s=0, baselines=False),
    )
    assert {server.base_model for server in plan.servers} == {profile.base_model, other.base_model}
    assert len(plan.servers_of()) == 40


def test_what_if_adapters_join_the_catalogue() -> None:
    wider = with_added(
        catalogue_of([0.1], [8]),
        "llama-3.1-8b-instruct",
        [Addition.parse("3:rank=32,rate=0.5"), Addition.parse("1:rank=8,rate=1,output=50")],
    )
    assert wider.names.tolist()[1:] == [f"added-{i:04d}" for i in range(4)]
    assert wider.ranks.tolist() == [8, 32, 32, 32, 8]
    assert wider.mean_output_tokens[4] == 50
    for wrong in ("", "3", "3:rank=32", "0:rank=8,rate=1", "3:rank=8,rate=-1", "3:rank=x,rate=1"):
        with pytest.raises(AdditionError):
            Addition.parse(wrong)


@pytest.mark.slow
def test_an_explanation_names_server_and_alternatives(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(200)
    plan = place(catalogue, profile, **UNCHECKED)
    [found] = explain_adapter(plan, catalogue, profile, "a4")
    assert set(plan.servers_of()["a4"]) == {found.server}
    assert found.fill_without < found.fill
    assert found.server in found.text
    assert {a.server for a in found.alternatives} < {server.name for server in plan.servers}
    fewer = one_fewer(plan, catalogue, profile)
    assert 0 < fewer.rate_factor < 1
    calm = catalogue.with_rates(catalogue.rates_rps * fewer.rate_factor)
    assert place(calm, profile, **UNCHECKED).gpus < plan.gpus
    with pytest.raises(PlacementError, match="does not hold"):
        explain_adapter(plan, catalogue, profile, "stranger")


@pytest.mark.slow
def test_moves_stay_within_the_budget_and_small_changes_move_nobody(
    profile: ServerProfile,
) -> None:
    catalogue = mixed_catalogue(200)
    plan = place(catalogue, profile, **UNCHECKED)
    hotter = catalogue.with_rates(catalogue.rates_rps * 2)
    after = replan(plan, hotter, profile, max_moves=2)
    assert len(plan.diff(after).moves) <= 2
    assert after.evidence.servers_over_risk
    wobble = np.random.default_rng(0).normal(1.0, 0.005, len(catalogue))
    same = replan(plan, catalogue.with_rates(catalogue.rates_rps * wobble), profile)
    assert not plan.diff(same).moves


@pytest.mark.slow
def test_no_step_leaves_an_adapter_unserved(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(200)
    plan = place(catalogue, profile, **UNCHECKED)
    rates = catalogue.rates_rps * np.random.default_rng(1).choice([0.3, 1.0, 3.0], len(catalogue))
    frame = catalogue.with_rates(rates).frame().iloc[5:]
    after = replan(plan, AdapterCatalogue.from_frame(frame), profile, max_closing_moves=200)
    up = {server.name for server in plan.servers}
    loaded = {(held.adapter, server.name) for server in plan.servers for held in server.adapters}
    routed = {adapter: set(shares) for adapter, shares in plan.servers_of().items()}
    steps = plan.diff(after).steps
    assert steps
    for step in steps:
        if step.action == "start_server":
            up.add(step.server)
        elif step.action == "stop_server":
            up.remove(step.server)
        elif step.action == "load":
            loaded.add((step.adapter, step.server))
        elif step.action == "unload":
            loaded.discard((step.adapter, step.server))
        elif step.action == "route":
            routed[step.adapter] = set(step.shares or {})
        for adapter, servers in routed.items():
            assert servers <= up
            assert all((adapter, server) in loaded for server in servers)
    final = {adapter: set(shares) for adapter, shares in after.servers_of().items()}
    assert {adapter: servers for adapter, servers in routed.items() if servers} == final


@pytest.mark.slow
def test_a_large_plan_is_checked_by_a_sample(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(300)
    plan = place(
        catalogue, profile, check_duration_s=400.0, check_servers=1, baselines=False, workers=1
    )
    assert_sound(plan, catalogue)
    assert 1 <= plan.evidence.servers_checked < plan.gpus
