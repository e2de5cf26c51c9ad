"""One GPU kind or several: adapters without requests, adapters too hot, and pins among kinds."""

import pytest

from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.gpu_kinds import GpuKind, place_at_lowest_cost
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.placement.settings import Constraints, PlacementError, PlacementSettings
from maitre.twin import ServerProfile
from tests.placement.test_place import assert_sound, catalogue_of, mixed_catalogue

UNCHECKED = PlacementSettings(check_duration_s=0, baselines=False)
MODEL = "llama-3.1-8b-instruct"


@pytest.fixture(scope="module")
def other() -> ServerProfile:
    return ServerProfile.load("h100-64gb/qwen-2.5-7b-instruct")


@pytest.fixture(scope="module")
def small(profile: ServerProfile) -> ServerProfile:
    memory = profile.memory.model_copy(update={"base_tokens": profile.memory.base_tokens // 2})
    return profile.model_copy(update={"name": "small/llama", "memory": memory})


def of_two_models(other: ServerProfile) -> AdapterCatalogue:
    """Thirty adapters, the last ten of the other base model."""
    frame = mixed_catalogue(30).frame()
    frame.loc[20:, "base_model"] = other.base_model
    return AdapterCatalogue.from_frame(frame)


@pytest.mark.parametrize("rates", [[0.1] * 6 + [0.0] * 6, [0.0] * 12])
def test_adapters_without_requests_need_no_kind_of_their_own(
    profile: ServerProfile, rates: list[float]
) -> None:
    catalogue = catalogue_of(rates, [8] * 12)
    settings = PlacementSettings(check_duration_s=0, gpus=1)
    plan = place_at_lowest_cost(catalogue, [GpuKind(profile)], settings)
    assert_sound(plan, catalogue)
    assert (plan.gpus, plan.profile, plan.lower_bound_gpus) == (1, profile.name, 1)
    assert plan.baselines


def test_idle_adapters_go_to_one_of_several_kinds(
    profile: ServerProfile, small: ServerProfile
) -> None:
    kinds = [GpuKind(profile, 4.0), GpuKind(small, 1.0)]
    plan = place_at_lowest_cost(catalogue_of([0.0] * 12, [8] * 12), kinds, UNCHECKED)
    assert (plan.gpus, plan.profile) == (1, small.name)


@pytest.mark.slow
def test_adapters_that_no_kind_holds_are_named_by_row(
    profile: ServerProfile, small: ServerProfile, other: ServerProfile
) -> None:
    catalogue = catalogue_of([0.1, 1e7, 0.1, 2e7], [8] * 4)
    for kinds in ([GpuKind(profile)], [GpuKind(profile), GpuKind(small)]):
        with pytest.raises(CatalogueError, match="row 2: adapter 'a1' fits no server") as caught:
            place_at_lowest_cost(catalogue, kinds, UNCHECKED)
        assert caught.value.count == 2
    frame = of_two_models(other).frame()
    frame.loc[24, "rate_rps"] = 1e7
    with pytest.raises(CatalogueError, match="row 25: adapter 'a24' fits no server"):
        place_at_lowest_cost(
            AdapterCatalogue.from_frame(frame), [GpuKind(profile), GpuKind(other)], UNCHECKED
        )


def servers_of(plan: PlacementPlan, adapter: str) -> set[str]:
    return set(plan.servers_of()[adapter])


def test_a_pinned_server_may_have_a_name_like_the_others(profile: ServerProfile) -> None:
    catalogue = mixed_catalogue(20)
    pins = {"a1": f"{MODEL}-0001"}
    plan = place(
        catalogue, profile, pins=pins, replicas={"a2": 3}, check_duration_s=0, baselines=False
    )
    assert_sound(plan, catalogue)
    assert plan.gpus >= 3
    assert servers_of(plan, "a1") == {f"{MODEL}-0001"}


@pytest.mark.slow
def test_servers_of_other_kinds_leave_pinned_names_alone(
    profile: ServerProfile, other: ServerProfile
) -> None:
    catalogue, kinds = of_two_models(other), [GpuKind(profile), GpuKind(other)]
    taken = f"{MODEL}-0000"
    pins = Constraints({"a25": taken})
    plan = place_at_lowest_cost(catalogue, kinds, UNCHECKED, constraints=pins)
    assert servers_of(plan, "a25") == {taken}
    assert {s.base_model for s in plan.servers if s.name == taken} == {other.base_model}
    both = Constraints({"a1": "gold", "a25": "gold"})
    with pytest.raises(CatalogueError, match=r"server 'gold' is to hold 'a1' .*one base model"):
        place_at_lowest_cost(catalogue, kinds, UNCHECKED, constraints=both)


@pytest.mark.slow
def test_pins_to_one_server_keep_adapters_on_one_kind(
    profile: ServerProfile, small: ServerProfile
) -> None:
    # Each kind holds some adapters alone: large ranks are for the first, and it is far dearer.
    valid = small.valid.model_copy(update={"max_lora_rank": (8, 8)})
    cheap = small.model_copy(update={"valid": valid})
    catalogue = catalogue_of([3.0] * 4 + [0.6] * 60, [16] * 4 + [8] * 60)
    kinds = [GpuKind(profile, 9.0), GpuKind(cheap, 0.1)]
    divided = place_at_lowest_cost(catalogue, kinds, UNCHECKED)
    assert divided.evidence.gpus_by_profile.keys() == {profile.name, cheap.name}
    pins = Constraints({"a0": "gold", "a60": "gold"})
    plan = place_at_lowest_cost(catalogue, kinds, UNCHECKED, constraints=pins)
    assert servers_of(plan, "a0") == servers_of(plan, "a60") == {"gold"}


def test_an_unsafe_server_name_is_refused(profile: ServerProfile) -> None:
    with pytest.raises(CatalogueError, match=r"pin: server '\.\./gold' is not a safe name"):
        place(mixed_catalogue(3), profile, pins={"a1": "../gold"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"check_duration_s": 60.0}, "expected at least 300 simulated seconds"),
        ({"check_duration_s": float("inf")}, "got inf"),
        ({"check_servers": 0}, "check_servers: expected at least 1"),
        ({"gpus": 0}, "gpus: expected at least 1"),
    ],
)
def test_settings_that_promise_nothing_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(PlacementError, match=said):
        PlacementSettings(**wrong)
    PlacementSettings(check_duration_s=300.0, check_servers=1)
