"""Group `calendar`: dates and hours as people of several languages write them (babel)."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterable, Iterator

from babel.dates import format_date, format_time

from examples.tasks.draft import Draft, Item

_SEASONS = ("winter", "spring", "summer", "autumn")
_PARTS_OF_DAY = ("night", "morning", "afternoon", "evening")
_SEED = 5


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""
    season = "Which season is this in the north? Winter, spring, summer or autumn?"
    for name, locales in (
        ("date", ("en",)),
        ("romance-date", ("es", "fr", "it")),
        ("germanic-date", ("de", "nl", "sv")),
    ):
        yield _draft(f"season-of-{name}", season, _dates(locales, "d MMMM y", _season))
    part = "Which part of the day is this? Night, morning, afternoon or evening?"
    yield _draft("part-of-day", part, _hours("en_GB", _part_of_day))
    yield _draft("part-of-day-us", part, _hours("en_US", _part_of_day))


def _draft(name: str, question: str, items: Iterable[Item]) -> Draft:
    return Draft(f"calendar-{name}", "calendar", question.split("?")[0], question, tuple(items))


def _season(day: datetime.date) -> str:
    return _SEASONS[day.month % 12 // 3]


def _part_of_day(hour: datetime.time) -> str:
    return _PARTS_OF_DAY[hour.hour // 6]


def _dates(
    locales: tuple[str, ...], form: str, label: Callable[[datetime.date], str]
) -> Iterator[Item]:
    rng = random.Random(_SEED)
    for _ in range(1500):
        day = datetime.date(1930, 1, 1) + datetime.timedelta(days=rng.randrange(50_000))
        text = format_date(day, form, locale=rng.choice(locales))
        yield Item(text, label(day), (f"date:{day:%m-%d}",))


def _hours(locale: str, label: Callable[[datetime.time], str]) -> Iterator[Item]:
    for minute in range(24 * 60):
        hour = datetime.time(*divmod(minute, 60))
        # CLDR sets a narrow no-break space before AM and PM, which few keyboards have.
        text = format_time(hour, "short", locale=locale).replace("\u202f", " ")
        yield Item(text, label(hour), (f"time:{minute}",))
