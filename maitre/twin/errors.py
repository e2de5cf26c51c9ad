"""The one error a caller of the twin has to know."""

from maitre.errors import UserError


class TwinInputError(UserError):
    """Input that the twin cannot simulate; the message names the field and what to do."""


def require(condition: bool, message: str) -> None:
    """Raises `TwinInputError` with `message` unless the condition holds."""
    if not condition:
        raise TwinInputError(message)
