"""The request queue in plain SQLAlchemy.

Every change of state compares and sets in one statement, so that of any number of readers, in any
number of processes, exactly one wins.
"""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from maitre.requests.acceptance import check_new
from maitre.requests.moments import in_utc
from maitre.requests.reader import RequestReader
from maitre.requests.request import (
    FINAL_STATES,
    OPEN_STATES,
    RequestError,
    RequestState,
    TuningRequest,
)
from maitre.requests.tables import requests


@dataclass(frozen=True)
class RequestStore(RequestReader):
    """Tuning requests kept under a SQLAlchemy URL (`sqlite:///…`, `postgresql+psycopg2://…`)."""

    def submit(
        self,
        task: str,
        *,
        deadline_at: datetime,
        now: datetime,
        base_model: str = "",
        tenant: str = "default",
        idempotency_key: str | None = None,
        **estimates: Any,
    ) -> TuningRequest:
        """Add a request. With an `idempotency_key` that its tenant has used, return that one.

        That is so whatever the time is and however far it is: a client may ask again later.

        `estimates` are further fields of `TuningRequest` (iterations, predictions). Raises
        `RequestError` when the deadline is not after `now`, the key stands for another task, or a
        field is not what `acceptance` asks for.
        """
        there = self.submitted(task, base_model, tenant, idempotency_key)
        if there is not None:
            return there
        now, deadline_at = in_utc("time", now), in_utc("deadline", deadline_at)
        if deadline_at <= now:
            raise RequestError(f"deadline {deadline_at:%Y-%m-%d %H:%M:%S %Z} has passed already")
        request = TuningRequest(
            request_id=uuid.uuid4().hex,
            task=task,
            base_model=base_model,
            tenant=tenant,
            submitted_at=now,
            deadline_at=deadline_at,
            state=RequestState.QUEUED,
            idempotency_key=idempotency_key,
            **estimates,
        )
        check_new(request)
        try:
            with self._begin() as connection:
                connection.execute(requests.insert().values(**vars(request)))
        except sa.exc.IntegrityError:
            # Somebody else has used the key since.
            there = self.submitted(task, base_model, tenant, idempotency_key)
            if there is None:
                raise
            return there
        return request

    def take(self, request_id: str, *, owner: str, now: datetime, hold_s: float) -> bool:
        """Hand the request to `owner`, who makes a run of it within `hold_s`; whether it got it.

        What is queued can be taken, and what was held too long without becoming a run; but
        nothing that is to be cancelled.
        """
        return self._change(
            request_id,
            _is_free(now) & ~requests.c.cancel_requested,
            state=str(RequestState.STARTING),
            owner=owner,
            held_until=now + timedelta(seconds=hold_s),
        )

    def give_back(
        self,
        request_id: str,
        *,
        owner: str,
        message: str | None = None,
        now: datetime | None = None,
    ) -> bool:
        """Queue a request again that `owner` holds and could not start; whether it held it.

        One that was to be cancelled meanwhile is cancelled.
        """
        held = (requests.c.state == str(RequestState.STARTING)) & (requests.c.owner == owner)
        if self._end_cancelled(request_id, held, now or datetime.now(UTC)):
            return True
        released = {"owner": None, "held_until": None, "message": message}
        queued = str(RequestState.QUEUED)
        if self._change(request_id, held & ~requests.c.cancel_requested, state=queued, **released):
            return True
        # The cancel has come between these two.
        return self._end_cancelled(request_id, held, now or datetime.now(UTC))

    def end_cancelled(self, request_id: str, *, now: datetime) -> bool:
        """End a request that is to be cancelled and that nobody makes a run of; whether it was.

        For whoever knows that it has no run: one whose holder went silent may have one.
        """
        return self._end_cancelled(request_id, _is_free(now), now)

    def move(
        self,
        request_id: str,
        *,
        expected: RequestState,
        state: RequestState,
        now: datetime | None = None,
        run_id: str | None = None,
        message: str | None = None,
    ) -> bool:
        """Change a request's state if it is still `expected`; whether it was."""
        values: dict[str, Any] = {"state": str(state), "message": message}
        if run_id is not None:
            values["run_id"] = run_id
        if state in FINAL_STATES:
            values["finished_at"] = now or datetime.now(UTC)
        return self._change(request_id, requests.c.state == str(expected), **values)

    def bind_run(self, request_id: str, *, attempt: int, run_id: str) -> bool:
        """Make the run the one of the request's attempt; whether it is that now.

        Of any number of runs for one attempt the first one that asks gets it, for good; none gets
        an attempt that is over.
        """
        is_open = requests.c.state.in_([str(state) for state in OPEN_STATES])
        unbound = requests.c.run_id.is_(None) | (requests.c.run_id == run_id)
        same = requests.c.attempt == attempt
        return self._change(request_id, is_open & unbound & same, run_id=run_id)

    def cancel(self, request_id: str, *, now: datetime) -> TuningRequest:
        """Cancel: at once what is queued; of what has started the run is to be terminated.

        The second kind keeps its state, with `cancel_requested` set, until its run has ended.
        Raises `RequestError` for a request that has ended.
        """
        queued = requests.c.state == str(RequestState.QUEUED)
        cancelled = {"state": str(RequestState.CANCELLED), "finished_at": now}
        begun = requests.c.state.in_([str(RequestState.STARTING), str(RequestState.LAUNCHED)])
        while True:
            if self._change(request_id, queued, message="cancelled in the queue", **cancelled):
                return self.get(request_id)
            if self._change(request_id, begun, cancel_requested=True):
                return self.get(request_id)
            request = self.get(request_id)
            if request.state.is_final:
                raise RequestError(f"request {request_id} is {request.state} already")

    def to_retry(
        self, request_id: str, *, now: datetime, deadline_at: datetime | None = None
    ) -> TuningRequest:
        """A failed or cancelled request with the deadline that `retry` would give it.

        Raises `RequestError` for any other state, or when its deadline has passed and no new one
        is given.
        """
        request = self.get(request_id)
        if request.state not in (RequestState.FAILED, RequestState.CANCELLED):
            raise RequestError(
                f"request {request_id} is {request.state}: "
                "only what has failed or was cancelled can be tried again"
            )
        new_at = in_utc("deadline", deadline_at or request.deadline_at)
        if new_at <= in_utc("time", now):
            passed = (
                "its deadline has passed; give a new one with --deadline"
                if deadline_at is None
                else f"deadline {new_at:%Y-%m-%d %H:%M:%S %Z} has passed already"
            )
            raise RequestError(f"request {request_id}: {passed}")
        return replace(request, deadline_at=new_at)

    def retry(
        self,
        request_id: str,
        *,
        now: datetime,
        deadline_at: datetime | None = None,
        predicted_finish_at: datetime | None = None,
        predicted_price: float | None = None,
    ) -> TuningRequest:
        """Queue a failed or cancelled request once more, as its next attempt, with what is told.

        Raises what `to_retry` raises.
        """
        request = self.to_retry(request_id, now=now, deadline_at=deadline_at)
        changed = self._change(
            request_id,
            (requests.c.state == str(request.state)) & (requests.c.attempt == request.attempt),
            state=str(RequestState.QUEUED),
            attempt=request.attempt + 1,
            deadline_at=request.deadline_at,
            predicted_finish_at=predicted_finish_at,
            predicted_price=predicted_price,
            owner=None,
            held_until=None,
            cancel_requested=False,
            run_id=None,
            finished_at=None,
            message=None,
        )
        if not changed:
            raise RequestError(f"request {request_id}: somebody else has tried it again")
        return self.get(request_id)

    def _end_cancelled(self, request_id: str, holds: sa.ColumnElement[bool], now: datetime) -> bool:
        return self._change(
            request_id,
            holds & requests.c.cancel_requested,
            state=str(RequestState.CANCELLED),
            owner=None,
            held_until=None,
            finished_at=now,
            message="cancelled before its run was started",
        )

    def _change(self, request_id: str, holds: sa.ColumnElement[bool], **values: Any) -> bool:
        change = requests.update().where(requests.c.request_id == request_id, holds)
        with self._begin() as connection:
            return connection.execute(change.values(**values)).rowcount == 1


def _is_free(now: datetime) -> sa.ColumnElement[bool]:
    """Whether nobody holds a request, or did so for too long without making a run of it."""
    starting = requests.c.state == str(RequestState.STARTING)
    held_too_long = starting & (requests.c.held_until < now) & requests.c.run_id.is_(None)
    return (requests.c.state == str(RequestState.QUEUED)) | held_too_long
