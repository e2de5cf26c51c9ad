"""The policies, and how to get one by name."""

import math
from dataclasses import fields
from typing import Any

from maitre.scheduling.errors import SchedulingError
from maitre.scheduling.policies.elasticflow import ElasticFlow
from maitre.scheduling.policies.infless import Infless
from maitre.scheduling.policies.maitre import Maitre
from maitre.scheduling.policies.prompttuner import PromptTuner
from maitre.scheduling.policy import Policy

POLICIES: dict[str, type[Any]] = {
    "infless": Infless,
    "elasticflow": ElasticFlow,
    "prompttuner": PromptTuner,
    "maitre": Maitre,
}


def named_policy(name: str, **parameters: Any) -> Policy:
    """The policy called `name`.

    Raises `SchedulingError` for a name or a parameter it lacks, or a value out of its range:
    quantiles from 0 to below 1, shares above 0 to 1, numbers finite and not negative.
    """
    if name not in POLICIES:
        raise SchedulingError(f"policy {name!r}: expected one of {', '.join(POLICIES)}")
    known = {field.name: field.default for field in fields(POLICIES[name]) if field.name != "name"}
    for parameter, value in parameters.items():
        if parameter not in known:
            raise SchedulingError(
                f"policy {name}: no parameter {parameter!r} (it has {', '.join(sorted(known))})"
            )
        parameters[parameter] = _checked(f"policy {name}: {parameter}", value, known[parameter])
    policy: Policy = POLICIES[name](**parameters)
    return policy


def _checked(where: str, value: Any, default: Any) -> Any:
    """`value` in the type of the parameter's default."""
    if isinstance(default, tuple):
        return tuple(_checked(where, one, default[0]) for one in value)
    if isinstance(default, bool) != isinstance(value, bool):
        expected = "true or false" if isinstance(default, bool) else "a number"
        raise SchedulingError(f"{where}: {value}: expected {expected}")
    if isinstance(default, bool):
        return value
    if not (math.isfinite(value) and value >= 0):
        raise SchedulingError(f"{where}: {value}: expected a finite number, not negative")
    if "quantile" in where and value >= 1:
        raise SchedulingError(f"{where}: {value}: expected a quantile, 0 to below 1")
    if where.endswith("_share") and not 0 < value <= 1:
        raise SchedulingError(f"{where}: {value}: expected a share, above 0 to 1")
    if isinstance(default, int):
        if value != int(value) or value < 1:
            raise SchedulingError(f"{where}: {value}: expected a whole number from 1")
        return int(value)
    return value
