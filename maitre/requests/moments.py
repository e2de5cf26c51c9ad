"""Moments in the tables: with a zone where they are used, in UTC where they are kept."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from maitre.requests.request import RequestError


class Moment(sa.types.TypeDecorator[datetime]):
    """A time with its zone. SQLite keeps none: what is stored there is UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> datetime | None:
        """Into UTC; a time without a zone is refused (`ValueError`)."""
        return None if value is None else in_utc("a stored time", value)

    def process_result_value(self, value: Any, _: sa.Dialect) -> datetime | None:
        """Into UTC; rows of older versions are in UTC already."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def in_utc(name: str, moment: datetime) -> datetime:
    """The moment in UTC; `RequestError` naming it when it has no zone."""
    if moment.tzinfo is None:
        raise RequestError(f"{name} {moment.isoformat()} has no time zone")
    return moment.astimezone(UTC)
