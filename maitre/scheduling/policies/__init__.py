"""The policies by name. To add one: its file beside these, and one line in `_POLICIES`."""

from typing import Any

from maitre.scheduling.errors import SchedulingError
from maitre.scheduling.policies.earliest_deadline_first import EarliestDeadlineFirst
from maitre.scheduling.policies.elasticflow import ElasticFlow
from maitre.scheduling.policies.infless import Infless
from maitre.scheduling.policies.maitre import Maitre
from maitre.scheduling.policies.parameters import checked_parameters
from maitre.scheduling.policies.prompttuner import PromptTuner
from maitre.scheduling.policy import Policy

_POLICIES: tuple[type[Any], ...] = (
    EarliestDeadlineFirst,
    Infless,
    ElasticFlow,
    PromptTuner,
    Maitre,
)
POLICIES: dict[str, type[Any]] = {kind.name: kind for kind in _POLICIES}
"""Each policy's dataclass by the name that the command line and the settings use."""


def named_policy(name: str, **parameters: Any) -> Policy:
    """Return the policy called `name` with these parameters; the others have their defaults.

    Raises:
        SchedulingError: there is no policy of that name, it has no such parameter, or a value is
            out of the bounds that the policy declares.
    """
    if name not in POLICIES:
        raise SchedulingError(f"policy {name!r}: expected one of {', '.join(POLICIES)}")
    policy: Policy = POLICIES[name](**checked_parameters(name, POLICIES[name], parameters))
    return policy
