"""The one error that a caller of the twin has to know."""

import numpy as np

from maitre.errors import UserError


class TwinInputError(UserError):
    """Input that the twin cannot simulate; the message names the field and what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `TwinInputError` with `message` unless the condition holds."""
    if not condition:
        raise TwinInputError(message)


def shown(value: object) -> str:
    """Return a value for a message as the user wrote it, without numpy's type."""
    return repr(value.item() if isinstance(value, np.generic) else value)
