"""Parameters of a policy: fields of its dataclass that declare their own bounds."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from maitre.scheduling.errors import SchedulingError

_KEY = "bounds"


@dataclass(frozen=True)
class Bounds:
    """Which numbers a parameter takes: from `low` to `high`, whole ones only if `whole`."""

    low: float = 0.0
    high: float = math.inf
    low_is_in: bool = True
    high_is_in: bool = True
    whole: bool = False

    def allow(self, value: float) -> bool:
        """Return whether a parameter may have this value."""
        above = value > self.low or (self.low_is_in and value == self.low)
        below = value < self.high or (self.high_is_in and value == self.high)
        return math.isfinite(value) and above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"from {self.low:g}" if self.low_is_in else f"above {self.low:g}"
        if math.isinf(self.high):
            return f"{kind} {low}" if self.whole else f"a finite number {low}"
        return f"{kind} {low} to {'' if self.high_is_in else 'below '}{self.high:g}"


NOT_NEGATIVE = Bounds()
QUANTILE = Bounds(high=1.0, high_is_in=False)
SHARE = Bounds(high=1.0, low_is_in=False)
COUNT = Bounds(low=1.0, whole=True)


def parameter(default: Any, bounds: Bounds = NOT_NEGATIVE) -> Any:
    """Return a dataclass field with a default and bounds; a tuple's bounds are of each element."""
    return field(default=default, metadata={_KEY: bounds})


def checked_parameters(policy: str, kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the given parameters in the types of their defaults.

    `kind` is the policy's dataclass. A field that is true or false needs no bounds.

    Raises:
        SchedulingError: the policy has no such parameter, or the value is out of its bounds.
    """
    known = {one.name: one for one in fields(kind) if one.name != "name"}
    for name in given:
        if name not in known:
            raise SchedulingError(
                f"policy {policy}: no parameter {name!r} (it has {', '.join(sorted(known))})"
            )
    return {
        name: _checked_value(
            f"policy {policy}: {name}", value, known[name].default, known[name].metadata
        )
        for name, value in given.items()
    }


def _checked_value(where: str, value: Any, default: Any, metadata: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(_checked_value(where, one, default[0], metadata) for one in value)
    if isinstance(default, bool) != isinstance(value, bool):
        expected = "true or false" if isinstance(default, bool) else "a number"
        raise SchedulingError(f"{where}: expected {expected}; got {value}")
    if isinstance(default, bool):
        return value
    bounds: Bounds = metadata.get(_KEY, NOT_NEGATIVE)
    if not bounds.allow(value):
        raise SchedulingError(f"{where}: expected {bounds}; got {value}")
    return int(value) if bounds.whole else float(value)
