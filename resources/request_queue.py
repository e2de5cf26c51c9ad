"""The queue of tuning requests: a table in SQLite or PostgreSQL.

`maitre tune TASK --deadline 10m` adds a row; the sensor `tuning_requests` turns rows into Dagster
runs and writes back what became of them. A request's id is the run key, so that a row that is read
twice still starts one run.
"""

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import dagster as dg
import sqlalchemy as sa


class RequestState(StrEnum):
    """Where a request stands; the last three are final."""

    QUEUED = "queued"
    LAUNCHED = "launched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestError(ValueError):
    """A request cannot be taken or found; the message says which and why."""


@dataclass(frozen=True)
class TuningRequest:
    """A task to tune by a deadline."""

    request_id: str
    task: str
    submitted_at: datetime
    deadline_at: datetime
    tenant: str
    state: RequestState
    run_id: str | None
    message: str | None


_metadata = sa.MetaData()
_requests = sa.Table(
    "tuning_requests",
    _metadata,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("task", sa.String(200), nullable=False),
    sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("run_id", sa.String(64)),
    sa.Column("message", sa.Text),
)


class RequestQueue(dg.ConfigurableResource):
    """Tuning requests kept under a SQLAlchemy URL (`sqlite:///…`, `postgresql+psycopg2://…`)."""

    url: str

    def submit(
        self, task: str, *, deadline_at: datetime, now: datetime, tenant: str = "default"
    ) -> TuningRequest:
        """Add a request; `RequestError` when the deadline is not after `now`."""
        if deadline_at <= now:
            raise RequestError(f"deadline {deadline_at:%Y-%m-%d %H:%M:%S %Z} has passed already")
        request = TuningRequest(
            request_id=uuid.uuid4().hex,
            task=task,
            submitted_at=now,
            deadline_at=deadline_at,
            tenant=tenant,
            state=RequestState.QUEUED,
            run_id=None,
            message=None,
        )
        with self._connect() as connection:
            connection.execute(_requests.insert().values(**vars(request)))
        return request

    def find(
        self, states: Sequence[RequestState] = tuple(RequestState), limit: int = 1000
    ) -> list[TuningRequest]:
        """Requests in any of `states`, the earliest deadline first."""
        query = (
            sa.select(_requests)
            .where(_requests.c.state.in_([str(s) for s in states]))
            .order_by(_requests.c.deadline_at, _requests.c.submitted_at)
            .limit(limit)
        )
        with self._connect() as connection:
            return [_request(row) for row in connection.execute(query)]

    def get(self, request_id: str) -> TuningRequest:
        """The request of that id; `RequestError` when there is none."""
        query = sa.select(_requests).where(_requests.c.request_id == request_id)
        with self._connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RequestError(f"no tuning request {request_id!r}")
        return _request(row)

    def move(
        self,
        request_id: str,
        *,
        expected: RequestState,
        state: RequestState,
        run_id: str | None = None,
        message: str | None = None,
    ) -> bool:
        """Change a request's state if it is still `expected`; whether it was.

        The comparison and the change are one statement, so that of two readers one wins.
        """
        values: dict[str, str | None] = {"state": str(state), "message": message}
        if run_id is not None:
            values["run_id"] = run_id
        change = (
            _requests.update()
            .where(_requests.c.request_id == request_id, _requests.c.state == str(expected))
            .values(**values)
        )
        with self._connect() as connection:
            return connection.execute(change).rowcount == 1

    def _connect(self) -> AbstractContextManager[sa.Connection]:
        url = sa.make_url(self.url)
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url)
        _metadata.create_all(engine)
        return engine.begin()


def _request(row: sa.Row) -> TuningRequest:
    values = dict(row._mapping)
    for name in ("submitted_at", "deadline_at"):
        moment = values[name]
        # SQLite drops the time zone; every moment is stored in UTC.
        values[name] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    values["state"] = RequestState(values["state"])
    return TuningRequest(**values)
