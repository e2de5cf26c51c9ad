"""Leases: which worker holds a run. One row per run, changed by compare-and-set.

Every lease has its own attempt id. A worker checks before each commit that its attempt still holds
the run. So a worker that stood still, and was replaced, writes nothing more. A worker also renews
its lease while the run executes: a worker that does not answer for a moment is not taken for one
that is gone.
"""

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from maitre.requests.tables import Moment, transaction

LEASE_S = 10.0
"""How long a worker that does not answer counts as alive; it renews three times in that span."""

PREEMPTED = "preempted by the scheduler"
"""The message of a lease that was released so that the scheduler places the run again."""

LEASE_TABLES = sa.MetaData()
# The table and its columns keep the names that existing databases have.
_leases = sa.Table(
    "placements",
    LEASE_TABLES,
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


class LeaseState(StrEnum):
    """Whether a worker holds the run, the run waits for the next worker, or it is over."""

    HELD = "placed"
    RELEASED = "released"
    ENDED = "ended"


class LeaseLost(BaseException):
    """This worker no longer holds the run: it must write nothing more for it.

    A `BaseException`, because it passes through code that catches every `Exception`: Dagster writes
    an op's exception to the event log as a step failure, and MLflow and the tuner have handlers
    too. Such a handler would write for a run that another worker executes. Only the worker's loop
    catches this.
    """


@dataclass(frozen=True)
class RunLease:
    """A run's lease. `number` counts the leases of the run from 1.

    `taken` counts the leases that a worker has accepted, except those that a preemption has ended;
    it is 0 only while no worker has accepted the run.

    `others` are the workers that tune the run together with `worker`, by rank from 1. `meeting` is
    the address (`host:port`) of their store, once the first worker has published it. `iterations`
    is the progress of the run at the last renewal.
    """

    run_id: str
    number: int
    attempt: str
    worker: str
    url: str
    state: LeaseState
    placed_at: datetime
    lease_until: datetime
    message: str | None = None
    others: tuple[str, ...] = ()
    meeting: str | None = None
    iterations: int = 0
    taken: int = 1


@dataclass(frozen=True)
class LeaseStore:
    """Leases in the database of a SQLAlchemy URL, that of the request queue."""

    url: str

    def current(self, run_id: str) -> RunLease | None:
        """Return the run's lease; `None` when the run never had one."""
        query = sa.select(_leases).where(_leases.c.run_id == run_id)
        with self._transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else _lease(row)

    def find(self, state: LeaseState) -> list[RunLease]:
        """Return all leases in a state, the oldest first."""
        query = sa.select(_leases).where(_leases.c.state == str(state))
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(_leases.c.placed_at)).all()
        return [_lease(row) for row in rows]

    def grant(
        self,
        run_id: str,
        *,
        worker: str,
        url: str,
        after: RunLease | None,
        now: datetime,
        others: Sequence[str] = (),
        lease_s: float = LEASE_S,
    ) -> RunLease | None:
        """Give the run to a worker (and to `others` with it), in place of the lease `after`.

        Returns `None` when another launcher has granted a lease since `after` was read.
        """
        granted = RunLease(
            run_id=run_id,
            number=after.number + 1 if after else 1,
            attempt=uuid.uuid4().hex,
            worker=worker,
            url=url,
            state=LeaseState.HELD,
            placed_at=now,
            lease_until=now + timedelta(seconds=lease_s),
            others=tuple(others),
            iterations=after.iterations if after else 0,
            taken=after.taken + 1 if after else 1,
        )
        values: dict[str, Any] = vars(granted) | {
            "state": str(granted.state),
            "others": ",".join(others),
        }
        try:
            with self._transaction() as connection:
                if after is None:
                    connection.execute(_leases.insert().values(**values))
                    return granted
                change = _leases.update().where(
                    _leases.c.run_id == run_id, _leases.c.number == after.number
                )
                return granted if connection.execute(change.values(**values)).rowcount else None
        except sa.exc.IntegrityError:
            return None

    def is_current(self, run_id: str, attempt: str) -> bool:
        """Return whether that attempt still holds the run."""
        query = sa.select(_leases.c.attempt).where(
            _leases.c.run_id == run_id, _leases.c.state == str(LeaseState.HELD)
        )
        with self._transaction() as connection:
            row = connection.execute(query).first()
        return row is not None and row[0] == attempt

    def renew(
        self,
        run_id: str,
        attempt: str,
        *,
        now: datetime,
        iterations: int = 0,
        lease_s: float = LEASE_S,
    ) -> bool:
        """Extend the lease and record the iterations; return whether the attempt still holds it."""
        until = now + timedelta(seconds=lease_s)
        return self._change(run_id, attempt, lease_until=until, **_iterations(iterations))

    def publish_meeting(self, run_id: str, attempt: str, meeting: str) -> bool:
        """Record the address of the workers' store; return whether the attempt holds the run."""
        return self._change(run_id, attempt, meeting=meeting)

    def release(self, run_id: str, attempt: str, message: str, iterations: int = 0) -> bool:
        """Release a run that is not finished, so that another worker can take it."""
        values: dict[str, Any] = _iterations(iterations)
        if message == PREEMPTED:
            # A preemption does not count, but a worker had accepted the run.
            taken = _leases.c.taken
            values["taken"] = sa.case((taken > 1, taken - 1), else_=1)
        released = str(LeaseState.RELEASED)
        return self._change(run_id, attempt, state=released, message=message, **values)

    def refuse(self, run_id: str, attempt: str, message: str) -> bool:
        """Release a run that its worker has not accepted: the lease does not count as taken."""
        released = str(LeaseState.RELEASED)
        return self._change(
            run_id, attempt, state=released, message=message, taken=_leases.c.taken - 1
        )

    def end(self, run_id: str, attempt: str) -> bool:
        """Record that the run is over; return whether the attempt held it."""
        return self._change(run_id, attempt, state=str(LeaseState.ENDED))

    def close(self, run_id: str, attempt: str) -> bool:
        """Record that the run is over, whether or not the attempt still holds it."""
        change = _leases.update().where(_leases.c.run_id == run_id, _leases.c.attempt == attempt)
        with self._transaction() as connection:
            ended = change.values(state=str(LeaseState.ENDED))
            return connection.execute(ended).rowcount == 1

    def _change(self, run_id: str, attempt: str, **values: Any) -> bool:
        """Set the values if the attempt holds the run; return whether it does."""
        change = _leases.update().where(
            _leases.c.run_id == run_id,
            _leases.c.attempt == attempt,
            _leases.c.state == str(LeaseState.HELD),
        )
        with self._transaction() as connection:
            return connection.execute(change.values(**values)).rowcount == 1

    def _transaction(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self.url, LEASE_TABLES)


def _iterations(iterations: int) -> dict[str, int]:
    """Return the column to set; before the first iteration an earlier lease's count stays."""
    return {"iterations": iterations} if iterations else {}


def _lease(row: sa.Row) -> RunLease:
    values = dict(row._mapping)
    values["state"] = LeaseState(values["state"])
    values["others"] = tuple(name for name in values["others"].split(",") if name)
    return RunLease(**values)
