from datetime import UTC, datetime, timedelta

import pytest

from maitre.cli.deadline import local_time, parse_deadline
from maitre.errors import UserError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("in 2h", timedelta(hours=2)),
        ("1.5 d", timedelta(days=1.5)),
    ],
)
def test_spans_count_from_now(text: str, span: timedelta) -> None:
    assert parse_deadline(text, NOW) == NOW + span


def test_times_come_back_in_utc() -> None:
    assert parse_deadline("2030-01-31T18:00+02:00", NOW) == datetime(2030, 1, 31, 16, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "10", "10 weeks", "-5m"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(UserError, match="expected a span"):
        parse_deadline(text, NOW)


@pytest.mark.parametrize(
    "text",
    ["99999999999d", "9" * 400 + "s", "0001-01-01T00:00+02:00", "0001-01-01", "9999-12-31T23:59"],
)
def test_what_is_beyond_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a date in the years"):
        parse_deadline(text, NOW)


@pytest.mark.parametrize(("hours", "has_date"), [(0, False), (1, None), (30, True), (-30, True)])
def test_a_time_has_its_date_unless_it_is_today(hours: int, has_date: bool | None) -> None:
    moment = NOW + timedelta(hours=hours)
    found = local_time(moment, NOW)
    if has_date is None:
        # Which day it is an hour later depends on the machine's zone.
        has_date = moment.astimezone().date() != NOW.astimezone().date()
    assert (len(found) > len("12:00:00")) is has_date
    assert found.endswith(moment.astimezone().strftime("%H:%M:%S"))
