"""The tables of the request queue, and the engine to reach them."""

from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa

from maitre.requests.moments import Moment
from maitre.requests.request import RequestError

metadata = sa.MetaData()
requests = sa.Table(
    "tuning_requests",
    metadata,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("task", sa.String(200), nullable=False),
    sa.Column("base_model", sa.String(200), nullable=False, server_default=""),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("submitted_at", Moment, nullable=False),
    sa.Column("deadline_at", Moment, nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("iterations_cold", sa.Float, nullable=False, server_default="40"),
    sa.Column("iterations_bank", sa.Float, nullable=False, server_default="40"),
    sa.Column("max_iterations", sa.Integer, nullable=False, server_default="40"),
    sa.Column("lookup", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("predicted_finish_at", Moment),
    sa.Column("predicted_price", sa.Float),
    sa.Column("owner", sa.Text),
    sa.Column("held_until", Moment),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run_id", sa.String(64)),
    sa.Column("finished_at", Moment),
    sa.Column("message", sa.Text),
    sa.UniqueConstraint("tenant", "idempotency_key", name="one_request_per_key"),
)
# Which worker holds a run now: see `maitre.workers.leases`.
placements = sa.Table(
    "placements",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("attempt", sa.String(32), nullable=False),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("url", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("placed_at", Moment, nullable=False),
    sa.Column("lease_until", Moment, nullable=False),
    sa.Column("others", sa.Text, nullable=False, server_default=""),
    sa.Column("meeting", sa.String(200)),
    sa.Column("message", sa.Text),
    sa.Column("iterations", sa.Integer, nullable=False, server_default="0"),
    sa.Column("taken", sa.Integer, nullable=False, server_default="1"),
)

_WAITS: dict[str, dict[str, float]] = {
    "sqlite": {"timeout": 30.0},
    # A server that is silent, as its node is gone, refuses nothing: libpq would wait for minutes.
    "postgresql": {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    },
}
"""How long the drivers wait for a lock or for an answer."""


@lru_cache(maxsize=8)
def engine(url: str) -> sa.Engine:
    """The engine of a SQLAlchemy URL, one a process, with the tables made if they are missing.

    Raises `RequestError` for a URL that is none, of a database or driver that is not known here, or
    of one that refuses the tables.
    """
    parsed = _checked(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        made = sa.create_engine(
            parsed,
            connect_args=_WAITS[parsed.get_backend_name()],
            pool_pre_ping=not is_sqlite,
        )
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise RequestError(f"request queue {parsed}: {error}") from None
    try:
        _make_tables(made)
    except (sa.exc.OperationalError, sa.exc.InterfaceError):
        # It may answer at the next try.
        raise
    except sa.exc.DatabaseError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise RequestError(f"request queue {parsed}: {reason}") from None
    return made


def _checked(url: str) -> sa.URL:
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


def _make_tables(made: sa.Engine) -> None:
    """Make missing tables, and columns that a table of an older version lacks."""
    try:
        metadata.create_all(made)
    except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
        # Another process made them between the look and the making; a second look settles it.
        metadata.create_all(made)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in sa.inspect(made).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(made.dialect)
                rest = _default(column, made.dialect)
                with made.begin() as connection:
                    connection.execute(
                        sa.text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}{rest}")
                    )


def _default(column: sa.Column, dialect: sa.Dialect) -> str:
    """What rows that are there already get in a new column."""
    if not isinstance(column.server_default, sa.DefaultClause):
        return ""
    value = column.server_default.arg
    text = f"'{value}'" if isinstance(value, str) else str(value.compile(dialect=dialect))
    return f" NOT NULL DEFAULT {text}"
