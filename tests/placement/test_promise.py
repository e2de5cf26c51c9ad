"""The promise of a plan: its bounds, and its fields in a document."""

import pytest

from maitre.placement.promise import Promise, PromiseError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"risk": 1.5}, "risk: .* got 1.5"),
        ({"risk": 0.0}, "risk: .* got 0.0"),
        ({"risk": float("nan")}, "risk: .* got nan"),
        ({"ttft_slo_ms": 0.0}, "ttft_slo_ms: .* got 0.0"),
        ({"ttft_slo_ms": float("inf")}, "ttft_slo_ms: .* got inf"),
        ({"headroom": -0.01}, "headroom: .* got -0.01"),
        ({"headroom": float("nan")}, "headroom: .* got nan"),
        ({"headroom": 10.0}, "headroom: .* got 10.0"),
    ],
)
def test_a_promise_that_no_plan_can_keep_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(PromiseError, match=message):
        Promise(**wrong)
    Promise(headroom=0.0)


def test_a_document_names_what_is_promised_and_older_ones_only_some_of_it() -> None:
    promise = Promise(0.02, 400.0, 0.1)
    assert Promise.from_dict(promise.to_dict()) == promise
    assert Promise.from_dict({"risk": 0.02}) == Promise(0.02)
    assert Promise.from_dict({"servers_checked": 3}) is None
    for wrong in ("0.1", True, None, [0.1]):
        with pytest.raises(PromiseError, match="risk: expected a number"):
            Promise.from_dict({"risk": wrong})


def test_the_rule_and_the_rates_follow_from_the_promise() -> None:
    promise = Promise(ttft_slo_ms=400.0, headroom=0.25)
    assert promise.rule.ttft_slo_ms == 400.0
    assert promise.rate_factor == 1.25
