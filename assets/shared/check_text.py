"""The description of an asset check's result."""


def description(passed: bool, finding: str, remedy: str) -> str:
    """Return what was found and, where the check fails, what to do: `make run` prints the line."""
    return finding if passed else f"{finding}; {remedy}"
