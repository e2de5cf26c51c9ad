"""The plan document: what it holds together, its JSON form and its diff."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.placement.plan import (
    AdapterShare,
    Evidence,
    PlacementPlan,
    PlanError,
    PlannedServer,
    Prediction,
    Promise,
)
from maitre.twin.limits import VllmLimits

CONFIG = {
    "max_loras": 4,
    "max_cpu_loras": 8,
    "max_lora_rank": 16,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
}


def server(name: str, *held: tuple[str, float], **config: int) -> PlannedServer:
    return PlannedServer(
        name,
        "m",
        VllmLimits(**{**CONFIG, **config}),
        tuple(AdapterShare(a, s) for a, s in held),
        Prediction(1.5, 600.0, 0.004, 0.9, 0.5, 12.0, 80.0, "KV cache"),
    )


@st.composite
def plans(draw: st.DrawFn) -> PlacementPlan:
    """Plans in which each adapter sits on one to three servers with equal shares."""
    servers = draw(st.integers(1, 5))
    held: list[list[tuple[str, float]]] = [[] for _ in range(servers)]
    for adapter in range(draw(st.integers(1, 12))):
        on = draw(st.sets(st.integers(0, servers - 1), min_size=1, max_size=3))
        for position in on:
            held[position].append((f"a{adapter}", 1 / len(on)))
    return PlacementPlan(
        "p", tuple(server(f"s{i}", *parts) for i, parts in enumerate(held) if parts), 1, {"rr": 3}
    )


@given(plans())
def test_json_round_trip(plan: PlacementPlan) -> None:
    assert PlacementPlan.from_json(plan.to_json()) == plan


@given(plans(), plans())
def test_diff_accounts_for_every_adapter(before: PlacementPlan, after: PlacementPlan) -> None:
    diff = before.diff(after)
    old, new = before.servers_of(), after.servers_of()
    assert set(diff.adapters_added) == new.keys() - old.keys()
    assert set(diff.adapters_removed) == old.keys() - new.keys()
    changed = {move.adapter for move in (*diff.moves, *diff.reshared)}
    assert changed == {a for a in old.keys() & new.keys() if old[a] != new[a]}
    json.dumps(diff.to_dict())


@given(plans())
def test_diff_with_itself_is_empty(plan: PlacementPlan) -> None:
    assert plan.diff(plan).empty


def test_diff_tells_moves_from_new_shares() -> None:
    before = PlacementPlan("p", (server("s0", ("a", 1.0), ("b", 0.5)), server("s1", ("b", 0.5))))
    after = PlacementPlan("p", (server("s0", ("b", 1.0)), server("s2", ("a", 1.0), max_loras=2)))
    diff = before.diff(after)
    assert diff.servers_added == ("s2",)
    assert diff.servers_removed == ("s1",)
    assert [move.adapter for move in diff.moves] == ["a"]
    assert [move.adapter for move in diff.reshared] == ["b"]


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ((server("s", ("a", 0.5)),), "sum to 0.5"),
        ((server("s", ("a", 0.5), ("a", 0.5)),), "twice"),
        ((server("s", ("a", 1.0)), server("s", ("b", 1.0))), "two servers"),
        ((server("s"),), "no adapter"),
        ((server("s", ("a", 0.0)),), "share 0.0"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(servers: tuple, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        PlacementPlan("p", servers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"profile": "p"}', "'servers' is missing"),
        ('{"profile": "p", "servers": [{}]}', r"servers\[0\]: field 'name'"),
        ('{"profile": "p", "servers": [{"name": "s", "base_model": "m"}]}', "'config' is missing"),
    ],
)
def test_broken_documents_are_refused(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        PlacementPlan.from_json(text)


def test_the_evidence_is_written_in_the_order_of_its_fields_and_read_back() -> None:
    evidence = Evidence(
        Promise(0.02, 400.0, 0.1),
        servers_checked=1,
        servers_over_risk=("s",),
        servers_failed={"s": "delivers 80 % of the offered load"},
        gpus_by_profile={"p": 1},
    )
    plan = PlacementPlan("p", (server("s", ("a", 1.0)),), evidence=evidence)
    assert PlacementPlan.from_json(plan.to_json()) == plan
    assert list(plan.to_dict()["evidence"]) == [
        "risk", "headroom", "ttft_slo_ms", "servers_checked", "servers_over_risk", "servers_failed",
        "gpus_by_profile",
    ]  # fmt: skip
    assert PlacementPlan("p", ()).promise == Promise()


def test_a_prediction_that_is_not_complete_is_none() -> None:
    document = PlacementPlan("p", (server("s", ("a", 1.0)),)).to_dict()
    document["servers"][0]["predicted"] = {"starvation_risk": 0.2}
    assert PlacementPlan.from_dict(document).servers[0].predicted is None
    assert PlacementPlan.from_dict(document).servers[0].accepted_risk == 0.0


WRONG = st.sampled_from(
    [None, True, "text", 1.5, -1, 10**400, float("nan"), [], {}, [[]], {"a": 1}]
)


@given(st.data())
def test_any_field_of_any_kind_is_read_or_refused(data: st.DataObject) -> None:
    """A plan whose fields were changed is a plan or a `PlanError`; nothing else is raised."""
    plan = data.draw(plans())
    document = json.loads(replace(plan, evidence=Evidence(Promise(), seed=1)).to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        place: object = document
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if data.draw(st.booleans()) or not isinstance(place[key], dict | list):
                place[key] = data.draw(WRONG)
                break
            place = place[key]
    with suppress(PlanError):
        PlacementPlan.from_json(json.dumps(document)).to_json()


def test_a_document_nested_too_deeply_is_refused() -> None:
    with pytest.raises(PlanError, match="not JSON"):
        PlacementPlan.from_json("[" * 100_000)
