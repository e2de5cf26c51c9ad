"""The policies, and how to get one by name."""

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
    """The policy called `name`. Raises `SchedulingError` for a name or a parameter it lacks."""
    if name not in POLICIES:
        raise SchedulingError(f"policy {name!r}: expected one of {', '.join(POLICIES)}")
    known = {field.name for field in fields(POLICIES[name]) if field.init}
    for parameter in parameters:
        if parameter not in known:
            raise SchedulingError(
                f"policy {name}: no parameter {parameter!r} (it has {', '.join(sorted(known))})"
            )
    policy: Policy = POLICIES[name](**parameters)
    return policy
