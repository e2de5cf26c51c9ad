"""When the running plan is said to hold no longer, and how that is kept from flickering."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.drift import (
    PRIOR_REQUESTS,
    DriftLimits,
    DriftState,
    Observed,
    decide,
    expected_rates_rps,
    server_risks,
    weigh,
)
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.twin import ServerProfile

PROFILE = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
LIMITS = DriftLimits(enter=0.1, leave=0.05, samples=3, calm_s=900.0)


def catalogue(rates: list[float]) -> AdapterCatalogue:
    rows = pd.DataFrame({"adapter": [f"a{i}" for i in range(len(rates))], "rate_rps": rates})
    return AdapterCatalogue.from_frame(rows.assign(base_model=PROFILE.base_model, rank=8))


@pytest.fixture(scope="module")
def plan() -> PlacementPlan:
    return place(catalogue([0.05] * 24), PROFILE, check_duration_s=0.0, baselines=False)


def test_few_requests_move_the_rate_little_and_many_a_lot() -> None:
    told = catalogue([0.01, 2.0, 0.0])
    rates = expected_rates_rps(told, {"a1": 6000.0, "a2": 6.0}, 600.0)
    assert 0.003 < rates[0] < 0.01, "six were due and none came"
    assert rates[1] == pytest.approx(10.0, rel=0.01)
    assert rates[2] == pytest.approx(0.01)


@pytest.mark.slow
@given(st.floats(1e-3, 10), st.integers(0, 5000), st.floats(1.0, 3600.0))
def test_the_rate_lies_between_what_was_told_and_what_was_seen(
    told: float, seen: int, span_s: float
) -> None:
    [rate] = expected_rates_rps(catalogue([told]), {"a0": seen}, span_s)
    low, high = sorted((told, seen / span_s))
    assert low * (1 - 1e-9) <= rate <= high * (1 + 1e-9)
    assert PRIOR_REQUESTS > 0


def test_a_server_that_is_asked_far_more_is_at_risk(plan: PlacementPlan) -> None:
    rates = np.full(24, 0.05)
    quiet = server_risks(plan, catalogue(list(rates)), PROFILE, None)
    busy = server_risks(plan, catalogue(list(80 * rates)), PROFILE, None)
    assert set(quiet) == set(busy) == {server.name for server in plan.servers}
    assert max(quiet.values()) < LIMITS.enter < max(busy.values())


@pytest.mark.slow
def test_a_server_whose_adapters_are_all_gone_is_not_at_risk(plan: PlacementPlan) -> None:
    others = catalogue([1.0]).frame().assign(adapter="new")
    risks = server_risks(plan, AdapterCatalogue.from_frame(others), PROFILE, None)
    assert set(risks.values()) == {0.0}


def test_a_newest_plan_that_holds_is_waited_for(plan: PlacementPlan) -> None:
    """It only waits to be deployed; where it does not hold either, a new one is requested."""
    busy = catalogue([4.0] * 24)
    holds = place(busy, PROFILE, check_duration_s=0.0, baselines=False)
    due = DriftState(dict.fromkeys((server.name for server in plan.servers), LIMITS.samples))
    for newest, ask in ((None, True), (plan, True), (holds, False)):
        found = weigh(due, Observed(plan, newest, busy, {}, PROFILE), 0.0, LIMITS)
        assert found.ask is ask, found.reason
    assert found.reason.endswith("waits to be deployed")
    assert found.state == due, "requested at once when the newest plan no longer holds"


def test_without_a_server_of_known_options_only_a_growing_queue_counts() -> None:
    nothing = PlacementPlan("p", ())
    found = weigh(DriftState(), Observed(nothing, None, catalogue([1.0]), {}, PROFILE), 0.0, LIMITS)
    assert "no server of known options" in found.reason
    due = DriftState({"s": LIMITS.samples})
    queue = Observed(nothing, None, catalogue([1.0]), {"s": "a slot"}, PROFILE)
    assert weigh(due, queue, 0.0, LIMITS).ask


def run(risks: list[float], state: DriftState | None = None, plan: str = "p", **starving: str):
    """A sample per minute; the verdict of each."""
    state, found = state or DriftState(), []
    for minute, risk in enumerate(risks):
        verdict = decide(state, {"s": risk, "t": 0.0}, starving, plan, 60.0 * minute, LIMITS)
        state = DriftState.from_dict(json.loads(json.dumps(verdict.state.to_dict())))
        found.append(verdict)
    return found


def test_it_asks_after_some_samples_in_a_row_and_says_why() -> None:
    verdicts = run([0.01, 0.3, 0.4, 0.5, 0.5])
    assert [v.ask for v in verdicts] == [False, False, False, True, False]
    assert "no server is about to starve; riskiest s: risk 0.01" in verdicts[0].reason
    assert "s: risk 0.40 for 2 of 3 samples" in verdicts[2].reason
    assert verdicts[3].reason == "s: risk 0.50"


def test_a_rate_that_wobbles_around_the_limit_does_not_start_anew() -> None:
    assert [v.ask for v in run([0.11, 0.09, 0.11])] == [False, False, True]
    assert [v.ask for v in run([0.11, 0.04, 0.11, 0.11])] == [False] * 4


def test_it_does_not_ask_again_while_the_plan_is_being_changed() -> None:
    verdicts = run([0.9] * 24)
    asked = [minute for minute, verdict in enumerate(verdicts) if verdict.ask]
    assert asked == [2, 17], "the second time when 900 s have passed"
    assert "requested 180 s ago" in verdicts[5].reason
    assert "the same plan is still served" in verdicts[5].reason


def test_a_queue_that_grows_counts_whatever_the_model_says() -> None:
    verdicts = run([0.0, 0.0, 0.0], s="slots")
    assert verdicts[2].ask
    assert verdicts[2].reason == "s: risk 0.00, its queue grows for want of slots"


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="leave <= enter"):
        replace(LIMITS, leave=0.2)
    with pytest.raises(ValueError, match="samples"):
        replace(LIMITS, samples=0)
