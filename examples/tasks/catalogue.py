"""The list of all example tasks."""

from __future__ import annotations

from collections.abc import Iterator

from examples.tasks.draft import Draft
from examples.tasks.groups import (
    calendar,
    forms,
    kinds,
    languages,
    numbers,
    places,
    sentiment,
)

_GROUPS = (places, languages, forms, sentiment, numbers, kinds, calendar)


def drafts() -> Iterator[Draft]:
    """Yield the draft of every example task, group by group."""
    for group in _GROUPS:
        yield from group.drafts()
