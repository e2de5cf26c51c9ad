"""Which worker holds a run now: one row a run, changed by compare-and-set.

Every placement has an attempt id of its own. A worker asks before each commit whether its attempt
is still the run's; one that was stopped, taken for dead and replaced learns it here and writes
nothing more. Beside that a lease, which the worker renews while it runs, tells a worker that does
not answer from one that is gone.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from maitre.requests.tables import engine, placements

LEASE_S = 10.0
"""How long a worker that does not answer is believed to live; it renews three times as often."""


PREEMPTED = "preempted by the scheduler"
"""Why a run was released that only the scheduler may place again."""


class PlacementState(StrEnum):
    """`placed`: on a worker; `released`: to be placed again; `ended`: its run is over."""

    PLACED = "placed"
    RELEASED = "released"
    ENDED = "ended"


class PlacementLost(BaseException):
    """This worker no longer holds the run; what it was about to write must not be written.

    Not an `Exception`, so that nothing between the write and the worker's loop swallows it.
    """


@dataclass(frozen=True)
class Placement:
    """A run on a worker. `number` counts the run's placements from 1.

    `taken` counts those that a worker has not refused, less those that ended with a preemption; it
    is 0 only while no worker has taken the run at all.

    `others` are the workers that tune it together with this one, by rank from 1; `meeting` is where
    (`host:port`), once the first one says so. `iterations` is how far the run was when last told.
    """

    run_id: str
    number: int
    attempt: str
    worker: str
    url: str
    state: PlacementState
    placed_at: datetime
    lease_until: datetime
    message: str | None = None
    others: tuple[str, ...] = ()
    meeting: str | None = None
    iterations: int = 0
    taken: int = 1


@dataclass(frozen=True)
class PlacementStore:
    """The placements, kept beside the request queue."""

    url: str

    def current(self, run_id: str) -> Placement | None:
        """The run's newest placement, `None` when it was never placed."""
        query = sa.select(placements).where(placements.c.run_id == run_id)
        with engine(self.url).begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else _placement(row)

    def find(self, state: PlacementState) -> list[Placement]:
        """All placements in a state, the oldest first."""
        query = sa.select(placements).where(placements.c.state == str(state))
        with engine(self.url).begin() as connection:
            rows = connection.execute(query.order_by(placements.c.placed_at)).all()
        return [_placement(row) for row in rows]

    def place(
        self,
        run_id: str,
        *,
        worker: str,
        url: str,
        after: Placement | None,
        now: datetime,
        others: Sequence[str] = (),
        lease_s: float = LEASE_S,
    ) -> Placement | None:
        """Put the run on a worker (and `others` beside it), in place of the placement `after`.

        `None` when another launcher has placed it since `after` was read: of two, one wins.
        """
        placed = Placement(
            run_id=run_id,
            number=after.number + 1 if after else 1,
            attempt=uuid.uuid4().hex,
            worker=worker,
            url=url,
            state=PlacementState.PLACED,
            placed_at=now,
            lease_until=now + timedelta(seconds=lease_s),
            others=tuple(others),
            iterations=after.iterations if after else 0,
            taken=after.taken + 1 if after else 1,
        )
        values: dict[str, Any] = vars(placed) | {
            "state": str(placed.state),
            "others": ",".join(others),
        }
        try:
            with engine(self.url).begin() as connection:
                if after is None:
                    connection.execute(placements.insert().values(**values))
                    return placed
                change = placements.update().where(
                    placements.c.run_id == run_id, placements.c.number == after.number
                )
                return placed if connection.execute(change.values(**values)).rowcount else None
        except sa.exc.IntegrityError:
            return None

    def is_current(self, run_id: str, attempt: str) -> bool:
        """Whether the run is still placed by that attempt."""
        query = sa.select(placements.c.attempt).where(
            placements.c.run_id == run_id, placements.c.state == str(PlacementState.PLACED)
        )
        with engine(self.url).begin() as connection:
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
        """Prolong the lease and say how far the run is; whether the attempt still holds it."""
        until = now + timedelta(seconds=lease_s)
        return self._change(run_id, attempt, lease_until=until, **_reached(iterations))

    def meet(self, run_id: str, attempt: str, meeting: str) -> bool:
        """Say where the workers of the run meet; whether the attempt still holds the run."""
        return self._change(run_id, attempt, meeting=meeting)

    def release(self, run_id: str, attempt: str, message: str, iterations: int = 0) -> bool:
        """Let go of a run that is not finished, so that another worker can take it."""
        values: dict[str, Any] = _reached(iterations)
        if message == PREEMPTED:
            # It was not the run's fault. It has been taken, all the same.
            taken = placements.c.taken
            values["taken"] = sa.case((taken > 1, taken - 1), else_=1)
        released = str(PlacementState.RELEASED)
        return self._change(run_id, attempt, state=released, message=message, **values)

    def refuse(self, run_id: str, attempt: str, message: str) -> bool:
        """Let go of a run that the worker has not taken: as if it had not been placed there."""
        released = str(PlacementState.RELEASED)
        return self._change(
            run_id, attempt, state=released, message=message, taken=placements.c.taken - 1
        )

    def end(self, run_id: str, attempt: str) -> bool:
        """Note that the run is over."""
        return self._change(run_id, attempt, state=str(PlacementState.ENDED))

    def close(self, run_id: str, attempt: str) -> bool:
        """Note that the run is over, for one that nobody may hold any more."""
        change = placements.update().where(
            placements.c.run_id == run_id, placements.c.attempt == attempt
        )
        with engine(self.url).begin() as connection:
            ended = change.values(state=str(PlacementState.ENDED))
            return connection.execute(ended).rowcount == 1

    def _change(self, run_id: str, attempt: str, **values: Any) -> bool:
        change = placements.update().where(
            placements.c.run_id == run_id,
            placements.c.attempt == attempt,
            placements.c.state == str(PlacementState.PLACED),
        )
        with engine(self.url).begin() as connection:
            return connection.execute(change.values(**values)).rowcount == 1


def _reached(iterations: int) -> dict[str, int]:
    """Nothing for a run that has not begun to count: what is written then stays."""
    return {"iterations": iterations} if iterations else {}


def _placement(row: sa.Row) -> Placement:
    values = dict(row._mapping)
    for name in ("placed_at", "lease_until"):
        moment = values[name]
        values[name] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    values["state"] = PlacementState(values["state"])
    values["others"] = tuple(name for name in values["others"].split(",") if name)
    return Placement(**values)
