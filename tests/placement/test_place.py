"""Plans: nothing lost, nothing doubled, every server within its limits, and honest bounds."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from maitre.maxpack.design import design
from maitre.maxpack.health import HealthRule
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.simulate_health import simulate_health
from maitre.maxpack.steady import SteadyStateModel
from maitre.maxpack.traces import point_features
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import BoundError, relaxed_servers
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.demand import Demand
from maitre.placement.place import bounds, place
from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.placement.promise import Promise
from maitre.placement.replicas import as_is, replicated
from maitre.placement.search import fewest_servers
from maitre.placement.simulate_plan import check_plan
from maitre.twin import ServerProfile
from maitre.twin.limits import VllmLimits

MODEL = "llama-3.1-8b-instruct"
FEW = settings(
    max_examples=8,
    deadline=None,
    # Shrinking a plan takes minutes and tells little.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def catalogue_of(rates: list[float], ranks: list[int]) -> AdapterCatalogue:
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(len(rates))],
                "base_model": MODEL,
                "rank": ranks,
                "rate_rps": rates,
            }
        )
    )


def mixed_catalogue(adapters: int, seed: int = 0) -> AdapterCatalogue:
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(np.log(0.2), 1.2, adapters)).clip(0.001, 8)
    return catalogue_of(rates.tolist(), rng.choice([8, 16, 32], adapters).tolist())


@st.composite
def catalogues(draw: st.DrawFn) -> AdapterCatalogue:
    count = draw(st.integers(1, 60))
    rates = draw(st.lists(st.floats(0, 60), min_size=count, max_size=count))
    ranks = draw(st.lists(st.sampled_from([4, 8, 16, 32]), min_size=count, max_size=count))
    return catalogue_of(rates, ranks)


def bound_on(demand: Demand, capacity: Capacity) -> float:
    [bound] = relaxed_servers(demand, capacity.options)
    return bound


def assert_sound(plan: PlacementPlan, catalogue: AdapterCatalogue) -> None:
    """Everything placed, in shares of one, on servers that can hold it."""
    rank = dict(zip(catalogue.names, catalogue.ranks, strict=True))
    placed = plan.servers_of()
    assert set(placed) == set(catalogue.names)
    for shares in placed.values():
        assert math.isclose(sum(shares.values()), 1, abs_tol=1e-6)
    for server in plan.servers:
        assert max(rank[held.adapter] for held in server.adapters) <= server.config.max_lora_rank
        assert server.config.max_cpu_loras >= len(server.adapters)
        assert server.config.max_cpu_loras >= server.config.max_loras
    assert 1 <= plan.lower_bound_gpus <= plan.gpus
    assert PlacementPlan.from_json(plan.to_json()) == plan


@pytest.mark.slow
@FEW
@given(catalogues())
def test_no_adapter_is_lost_or_placed_beyond_its_share(
    profile: ServerProfile, catalogue: AdapterCatalogue
) -> None:
    plan = place(catalogue, profile, check_duration_s=0, baselines=False)
    assert_sound(plan, catalogue)


@pytest.mark.slow
@FEW
@given(catalogues())
def test_the_bound_is_below_every_packing(capacity: Capacity, catalogue: AdapterCatalogue) -> None:
    bound = bound_on(as_is(catalogue, default_lengths()), capacity)
    demand = replicated(catalogue, default_lengths(), capacity, 1.0)
    found = fewest_servers(demand, capacity)
    assert found is not None
    assert bound <= found.servers


def test_the_bound_is_close_for_many_alike(capacity: Capacity) -> None:
    catalogue = catalogue_of([0.2] * 600, [8] * 600)
    demand = as_is(catalogue, default_lengths())
    found = fewest_servers(demand, capacity)
    assert found is not None
    assert found.servers <= 1.15 * bound_on(demand, capacity) + 1


@pytest.mark.slow
def test_a_server_that_is_healthy_in_the_twin_is_worth_no_more_than_one(
    profile: ServerProfile, capacity: Capacity
) -> None:
    lengths = default_lengths()
    points = [
        (config, workload)
        for config, workload in design(profile, 96, seed=11)
        if config.max_loras >= len(workload.adapters)
    ]
    fills = point_features(profile, points)["fill"].to_numpy()
    near = [points[i] for i in np.flatnonzero((fills > 0.93) & (fills < 1.02))[:6]]
    runs = simulate_health(profile, near, list(range(len(near))), HealthRule())
    means = lengths.means()
    worths = []
    for (_, workload), run in zip(near, runs, strict=True):
        loads = workload.adapters
        demand = Demand.of(
            np.array([load.rate_rps for load in loads]),
            np.array([load.rank for load in loads]),
            np.array([load.mean_input_tokens or means[0] for load in loads]),
            np.array([load.mean_output_tokens or means[1] for load in loads]),
        )
        bound = bound_on(demand, capacity)
        worths.append(bound)
        # An hour may be lucky by a hundredth.
        assert not run.health.healthy or bound <= 1.01
    assert max(worths) > 0.9


@pytest.mark.slow
@given(
    some=st.lists(st.floats(1e-4, 20), min_size=1, max_size=30),
    more=st.lists(st.floats(1e-4, 20), min_size=1, max_size=30),
)
@FEW
def test_the_bound_of_a_part_is_no_more_than_that_of_the_whole(
    some: list[float], more: list[float], capacity: Capacity
) -> None:
    def bound(rates: list[float]) -> float:
        tokens = np.full(len(rates), 200.0)
        demand = Demand.of(np.array(rates), np.full(len(rates), 8), tokens, tokens)
        return bound_on(demand, capacity)

    # The multipliers are searched for, so two searches may differ by a little.
    assert bound(some) <= bound(some + more) * 1.03


@pytest.mark.slow
def test_the_bound_is_below_a_packing_of_adapters_of_many_lengths(capacity: Capacity) -> None:
    rng = np.random.default_rng(4)
    demand = Demand.of(
        rng.exponential(0.2, 200),
        rng.choice([8, 16, 32], 200),
        np.exp(rng.normal(5.3, 0.8, 200)).clip(10, 2000),
        np.exp(rng.normal(5.0, 0.6, 200)).clip(5, 800),
    )
    found = fewest_servers(demand, capacity)
    assert found is not None
    bound = bound_on(demand, capacity)
    assert 0.5 * found.servers < bound <= found.servers


@pytest.mark.slow
def test_bounds_at_several_rates_are_those_at_each(capacity: Capacity) -> None:
    catalogue = mixed_catalogue(150)
    together = relaxed_servers(as_is(catalogue, default_lengths()), capacity.options, (1.0, 1.05))
    alone = bound_on(as_is(catalogue, default_lengths(), 1.05), capacity)
    assert together[0] < together[1]
    # Worths of nearby rates find nearly the same multipliers.
    assert together[1] == pytest.approx(alone, rel=0.01)


@pytest.mark.slow
def test_the_bound_grows_with_the_load(capacity: Capacity) -> None:
    grown = [
        bound_on(as_is(mixed_catalogue(200), default_lengths(), factor), capacity)
        for factor in (0.5, 1.0, 2.0)
    ]
    assert grown[0] < grown[1] < grown[2]


def slow_profile(base_ms: float) -> ServerProfile:
    fast = ServerProfile.load("cpu/smollm2-135m")
    return fast.model_copy(update={"step": fast.step.model_copy(update={"base_ms": base_ms})})


@pytest.mark.parametrize("base_ms", [100.0, 400.0, 4_000.0])
def test_slow_servers_have_a_bound_below_what_holds_the_adapters(base_ms: float) -> None:
    slow = slow_profile(base_ms)
    lengths = default_lengths()
    options = ServerOptions.of(slow, lengths)
    slow_capacity = Capacity(SteadyStateModel(), options, 0.01, slow.valid.adapters[1])
    # Fewer requests the slower the steps, so that some server carries them.
    rates = [2e-3, 5e-3, 1e-2] if base_ms < 1_000 else [2e-5, 5e-5, 1e-4]
    catalogue = catalogue_of(rates * 8, [16] * 24)
    demand = replicated(catalogue, lengths, slow_capacity, 1.0)
    found = fewest_servers(demand, slow_capacity)
    assert found is not None
    assert 0 < bound_on(as_is(catalogue, lengths), slow_capacity) <= found.servers


def test_servers_whose_steps_are_longer_than_a_first_token_may_take_have_no_bound() -> None:
    options = ServerOptions.of(slow_profile(12_000.0), default_lengths())
    capacity = Capacity(SteadyStateModel(), options, 0.01, 16)
    demand = as_is(catalogue_of([1e-3] * 4, [16] * 4), default_lengths())
    with pytest.raises(BoundError, match="within 10 s"):
        bound_on(demand, capacity)


def test_the_bound_is_for_the_objective_of_the_plan(capacity: Capacity) -> None:
    catalogue = catalogue_of([0.05] * 3000, [32] * 3000)
    lengths = default_lengths()
    asked = [Promise(ttft_slo_ms=slo) for slo in (1_000.0, 10_000.0, 30_000.0)]
    found = [bounds(catalogue, lengths, each, capacity) for each in asked]
    relaxed = [
        relaxed_servers(as_is(catalogue, lengths), capacity.options, ttft_slo_ms=each.ttft_slo_ms)
        for each in asked
    ]
    assert relaxed[0] > relaxed[1] > relaxed[2]
    by_count = math.ceil(len(catalogue) / capacity.max_adapters)
    assert [told for told, _ in found] == [
        max(math.ceil(servers), by_count) for (servers,) in relaxed
    ]
    assert found[0] > found[2]


@pytest.mark.slow
def test_a_checked_plan_holds_in_the_twin(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(80)
    plan = place(catalogue, profile, check_duration_s=300.0, workers=1)
    assert_sound(plan, catalogue)
    check = check_plan(plan, profile, catalogue, seed=9, duration_s=300.0, workers=1)
    assert check.passed
    assert [server.server for server in check.servers] == [s.name for s in plan.servers]
    assert plan.baselines
    assert min(plan.baselines.values()) >= plan.lower_bound_gpus


@pytest.mark.slow
def test_the_same_seed_gives_the_same_plan(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(50)
    plans = [place(catalogue, profile, check_duration_s=0, baselines=False) for _ in range(2)]
    assert plans[0] == plans[1]


def test_an_adapter_hotter_than_a_server_gets_replicas(profile: ServerProfile) -> None:
    catalogue = catalogue_of([150.0, 0.1], [8, 8])
    plan = place(catalogue, profile, check_duration_s=0, baselines=False)
    assert_sound(plan, catalogue)
    assert len(plan.servers_of()["a0"]) >= 3


def test_one_large_rank_does_not_make_everyone_pay(profile: ServerProfile) -> None:
    ranks = [8] * 300
    ranks[7] = 32
    plan = place(catalogue_of([0.3] * 300, ranks), profile, check_duration_s=0, baselines=False)
    large = [server for server in plan.servers if server.config.max_lora_rank == 32]
    assert len(large) == 1
    assert len(plan.servers) > 2


def test_a_check_finds_an_overloaded_server(profile: ServerProfile) -> None:
    catalogue = catalogue_of([2.0] * 40, [8] * 40)
    config = {
        "max_loras": 8,
        "max_cpu_loras": 40,
        "max_lora_rank": 8,
        "max_num_seqs": 2048,
        "max_num_batched_tokens": 2048,
    }
    held = tuple(AdapterShare(str(name)) for name in catalogue.names)
    plan = PlacementPlan("p", (PlannedServer("s", MODEL, VllmLimits(**config), held),))
    check = check_plan(plan, profile, catalogue, duration_s=60.0, workers=1)
    assert not check.passed
    assert check.unhealthy[0].health.reason
    assert check.to_dict()["servers_unhealthy"] == 1


@pytest.mark.slow
def test_baselines_never_beat_the_bound(capacity: Capacity) -> None:
    catalogue = mixed_catalogue(120)
    demand = as_is(catalogue, default_lengths())
    bound = bound_on(demand, capacity)
    counts = baseline_gpus(demand, capacity, seed=1)
    assert set(counts) >= {"round_robin", "least_loaded", "one_size_fits_all"}
    assert min(counts.values()) >= bound


def test_a_stranger_to_the_profile_is_refused(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(3)
    stranger = AdapterCatalogue.from_frame(catalogue.frame().assign(base_model="gpt-9"))
    with pytest.raises(CatalogueError, match="3 rows"):
        place(stranger, profile)
    large = AdapterCatalogue.from_frame(catalogue.frame().assign(rank=512))
    with pytest.raises(CatalogueError, match="above 32"):
        place(large, profile)
