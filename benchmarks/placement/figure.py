"""One printed figure: what it is, and its value."""

from typing import Any

Figure = dict[str, Any]


def figure(name: str, value: Any) -> Figure:
    """A figure by name."""
    return {"figure": name, "value": value}
