"""Reads a deadline as people write it: `10m`, `in 2h`, or a time."""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"(?:in\s+)?(\d+(?:\.\d+)?)\s*([smhd])")


def parse_deadline(text: str, now: datetime) -> datetime:
    """The moment in UTC that `text` names: `90s`, `10m`, `in 2h`, `1d`, or ISO 8601.

    A time without a zone is in the zone of this machine. Raises `ValueError` for anything else.
    """
    if match := _SPAN.fullmatch(text.strip().lower()):
        amount, unit = match.groups()
        return now + timedelta(**{_UNITS[unit]: float(amount)})
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError:
        raise ValueError(
            f"deadline {text!r}: expected a span (90s, 10m, 2h, 1d) or a time (2030-01-31T18:00)"
        ) from None
