"""Each policy's parameters declare their bounds, and those are what is checked."""

import re
from dataclasses import fields

import pytest

from maitre.scheduling import POLICIES, named_policy
from maitre.scheduling.errors import SchedulingError
from maitre.scheduling.policies.parameters import COUNT, QUANTILE, SHARE, Bounds


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_defaults_are_within_their_own_bounds(policy: str) -> None:
    given = {
        one.name: one.default
        for one in fields(POLICIES[policy])
        if one.name != "name" and not isinstance(one.default, bool)
    }
    made = named_policy(policy, **given)
    assert made == POLICIES[policy]()
    assert {name: type(getattr(made, name)) for name in given} == {
        name: type(value) for name, value in given.items()
    }


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "shown"),
    [
        (QUANTILE, (0, 0.99), (1, -0.1, float("nan")), "a number from 0 to below 1"),
        (SHARE, (0.01, 1), (0, 1.01), "a number above 0 to 1"),
        (COUNT, (1, 60.0), (0, 1.5, float("inf")), "a whole number from 1"),
        (Bounds(), (0, 1e9), (-1e-9, float("inf")), "a finite number from 0"),
    ],
)
def test_bounds_hold_what_they_say(
    bounds: Bounds, inside: tuple, outside: tuple, shown: str
) -> None:
    assert all(bounds.allow(value) for value in inside)
    assert not any(bounds.allow(value) for value in outside)
    assert str(bounds) == shown


@pytest.mark.parametrize(
    ("policy", "given", "message"),
    [
        ("maitre", {"finish_quantile": 1.0}, "finish_quantile: expected a number from 0 to below"),
        ("maitre", {"fallback_quantiles": (0.5, 1.0)}, "fallback_quantiles: expected a number"),
        ("maitre", {"preempt": 1.0}, "preempt: expected true or false; got 1.0"),
        ("elasticflow", {"slots": 2.5}, "slots: expected a whole number from 1; got 2.5"),
        ("elasticflow", {"cluster_share": True}, "cluster_share: expected a number; got True"),
        ("infless", {"speed": 1.0}, "no parameter 'speed'"),
        ("nosuch", {}, "policy 'nosuch': expected one of"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(policy: str, given: dict, message: str) -> None:
    with pytest.raises(SchedulingError, match=re.escape(message)):
        named_policy(policy, **given)
