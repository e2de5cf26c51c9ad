"""The table of the request queue, and the engine of a database URL."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from maitre.requests.request import (
    DEFAULT_ITERATIONS,
    MAX_NAME_LENGTH,
    RequestError,
    in_utc,
)

_log = logging.getLogger(__name__)


class Moment(sa.types.TypeDecorator[datetime]):
    """A time with its zone. SQLite keeps no zone, so the database holds UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> datetime | None:
        """Convert to UTC; raise `RequestError` for a time without a zone."""
        return None if value is None else in_utc("a stored time", value)

    def process_result_value(self, value: Any, _: sa.Dialect) -> datetime | None:
        """Convert to UTC; rows of older versions are in UTC already."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


REQUEST_TABLES = sa.MetaData()
requests = sa.Table(
    "tuning_requests",
    REQUEST_TABLES,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("task", sa.String(MAX_NAME_LENGTH), nullable=False),
    sa.Column("base_model", sa.String(MAX_NAME_LENGTH), nullable=False, server_default=""),
    sa.Column("tenant", sa.String(MAX_NAME_LENGTH), nullable=False),
    sa.Column("submitted_at", Moment, nullable=False),
    sa.Column("deadline_at", Moment, nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("iterations_cold", sa.Float, nullable=False, server_default=str(DEFAULT_ITERATIONS)),
    sa.Column("iterations_bank", sa.Float, nullable=False, server_default=str(DEFAULT_ITERATIONS)),
    sa.Column("max_iterations", sa.Integer, nullable=False, server_default=str(DEFAULT_ITERATIONS)),
    sa.Column("lookup", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("idempotency_key", sa.String(MAX_NAME_LENGTH)),
    sa.Column("predicted_finish_at", Moment),
    sa.Column("predicted_price", sa.Float),
    sa.Column("owner", sa.Text),
    sa.Column("held_until", Moment),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run_id", sa.String(64)),
    sa.Column("finished_at", Moment),
    sa.Column("message", sa.Text),
    sa.UniqueConstraint("tenant", "idempotency_key", name="one_request_per_key"),
    # What the scheduler and the forecast read must not grow with the whole table.
    sa.Index("requests_in_flight", "state", "cancel_requested", "run_id"),
    sa.Index("requests_by_end", "finished_at"),
    sa.Index(
        "queue_by_model",
        *("state", "base_model", "deadline_at", "submitted_at"),
        # With these a forecast reads the index alone.
        *("iterations_cold", "iterations_bank", "lookup"),
    ),
)

_DRIVER_TIMEOUTS: dict[str, dict[str, float]] = {
    "sqlite": {"timeout": 30.0},
    # A server whose node is gone refuses nothing: libpq would wait for minutes.
    "postgresql": {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    },
}
"""How long each driver waits for a lock or for an answer."""


NOTICE_AFTER_S = 3.0
"""After how long a transaction that waits for the database logs that it does."""


@contextmanager
def transaction(
    url: str, tables: sa.MetaData = REQUEST_TABLES, notice_after_s: float = NOTICE_AFTER_S
) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction, which commits when the block ends.

    While another process locks the database, or it does not answer, the driver waits for up to half
    a minute. A warning says so after some seconds.
    """
    notice = threading.Timer(notice_after_s, _log_waiting, (url,))
    notice.daemon = True
    notice.start()
    try:
        with engine(url, tables).begin() as connection:
            yield connection
    finally:
        notice.cancel()


def _log_waiting(url: str) -> None:
    # SQLAlchemy shows no password in a URL's text.
    _log.warning(
        "waiting for %s: another process has locked it, or it does not answer", sa.make_url(url)
    )


@lru_cache(maxsize=16)
def engine(url: str, tables: sa.MetaData = REQUEST_TABLES) -> sa.Engine:
    """Return the process-wide engine of a SQLAlchemy URL; create missing tables and columns.

    Raises `RequestError` when the URL is not one, its database or driver is not supported, or the
    database refuses the tables.
    """
    made = _engine(url)
    try:
        _create_tables(made, tables)
    except (sa.exc.OperationalError, sa.exc.InterfaceError):
        # The database may answer at the next try.
        raise
    except sa.exc.DatabaseError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise RequestError(f"request queue {made.url}: {reason}") from None
    return made


@lru_cache(maxsize=8)
def _engine(url: str) -> sa.Engine:
    """Return the process-wide engine of a SQLAlchemy URL, as `engine`, without its tables."""
    parsed = _checked_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        return sa.create_engine(
            parsed,
            connect_args=_DRIVER_TIMEOUTS[parsed.get_backend_name()],
            pool_pre_ping=not is_sqlite,
        )
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise RequestError(f"request queue {parsed}: {error}") from None


def _checked_url(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RequestError(
            "request_queue_url: expected sqlite:///FILE or "
            "postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE"
        )
    return parsed


def _create_tables(made: sa.Engine, tables: sa.MetaData) -> None:
    """Create missing tables, and the columns and indexes that an older version's table lacks."""
    try:
        tables.create_all(made)
    except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
        # Another process may have created them in between; the second call then finds them.
        tables.create_all(made)
    for table in tables.sorted_tables:
        there = {column["name"] for column in sa.inspect(made).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(made.dialect)
                rest = _default_clause(column, made.dialect)
                with made.begin() as connection:
                    connection.execute(
                        sa.text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}{rest}")
                    )
        for index in table.indexes:
            try:
                index.create(made, checkfirst=True)
            except (sa.exc.OperationalError, sa.exc.ProgrammingError):
                # Another process may have created it in between.
                index.create(made, checkfirst=True)


def _default_clause(column: sa.Column, dialect: sa.Dialect) -> str:
    """Return the SQL that gives existing rows a value in a new column."""
    if not isinstance(column.server_default, sa.DefaultClause):
        return ""
    value = column.server_default.arg
    text = f"'{value}'" if isinstance(value, str) else str(value.compile(dialect=dialect))
    return f" NOT NULL DEFAULT {text}"
