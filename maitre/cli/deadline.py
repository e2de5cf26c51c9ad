"""Deadlines as people write and read them: `10m`, `in 2h`, or a time."""

import re
from datetime import UTC, datetime, timedelta

from maitre.errors import UserError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"(?:in\s+)?(\d+(?:\.\d+)?)\s*([smhd])")


def parse_deadline(text: str, now: datetime) -> datetime:
    """Return the moment in UTC that `text` names: `90s`, `10m`, `in 2h`, `1d`, or ISO 8601.

    A time without a zone is in the zone of this machine. Raises `UserError` for anything else.
    """
    span = _SPAN.fullmatch(text.strip().lower())
    try:
        moment = now if span else datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(
            f"deadline {text!r}: expected a span (90s, 10m, 2h, 1d) or a time (2030-01-31T18:00)"
        ) from None
    try:
        if span:
            amount, unit = span.groups()
            moment += timedelta(**{_UNITS[unit]: float(amount)})
        moment = moment.astimezone(UTC)
    except (OverflowError, ValueError):
        raise _far_away(text) from None
    # In these years it may be another one in other zones, and those have no date.
    if moment.year in (datetime.min.year, datetime.max.year):
        raise _far_away(text)
    return moment


def local_time(moment: datetime, now: datetime) -> str:
    """Return a moment as local time; with its date, unless that is today's."""
    local = moment.astimezone()
    is_today = local.date() == now.astimezone().date()
    return local.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")


def _far_away(text: str) -> UserError:
    return UserError(f"deadline {text[:40]!r}: expected a date in the years 2 to 9998")
