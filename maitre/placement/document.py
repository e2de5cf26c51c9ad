"""Reads the fields of a plan's JSON document, each of its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from maitre.errors import UserError

_Value = TypeVar("_Value")
_KINDS: dict[type, str] = {
    bool: "true or false",
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
MISSING = object()


class PlanError(UserError):
    """A plan that contradicts itself, or a document that is not a plan."""


def field_of(
    document: Any, name: str, kind: type[_Value], where: str, default: Any = MISSING
) -> _Value:
    """Return a field of an object; `default` where it is missing or null.

    Raises:
        PlanError: not an object, no such field and no default, or a value of another kind.
    """
    if not isinstance(document, Mapping):
        raise PlanError(f"{where}: expected an object; got {_value_text(document)}")
    value = document.get(name)
    if value is None:
        if default is MISSING:
            raise PlanError(f"{where}: field {name!r} is missing")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise PlanError(
            f"{where}: field {name!r}: expected {_KINDS[kind]}; got {_value_text(value)}"
        )
    return value  # type: ignore[return-value]


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _value_text(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to print whole numbers of thousands of digits.
        return "a number of too many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
