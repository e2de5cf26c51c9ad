"""The request queue in plain SQLAlchemy.

Every change of state is one compare-and-set statement: of any number of processes that try the same
change, exactly one succeeds.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from maitre.requests.request import (
    DEFAULT_TENANT,
    FINAL_STATES,
    OPEN_STATES,
    RequestError,
    RequestState,
    TuningRequest,
    check_deadline,
    check_names,
    in_utc,
    new_request,
)
from maitre.requests.tables import requests, transaction


class QueuedWork(NamedTuple):
    """The part of a queued request that a forecast for another request needs."""

    deadline_at: datetime
    iterations_cold: float
    iterations_bank: float
    lookup: bool


@dataclass(frozen=True)
class RequestStore:
    """Tuning requests in the database of a SQLAlchemy URL.

    `sqlite:///FILE` or `postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE`.
    """

    url: str

    def find(
        self,
        states: Sequence[RequestState] = tuple(RequestState),
        limit: int | None = None,
        *,
        tenant: str | None = None,
    ) -> list[TuningRequest]:
        """Return the requests in any of `states`, the earliest deadline first.

        With a `limit` at most that many; with a `tenant` only that tenant's.
        """
        query = (
            sa.select(requests)
            .where(requests.c.state.in_([str(s) for s in states]), _belongs_to(tenant))
            .order_by(requests.c.deadline_at, requests.c.submitted_at)
            .limit(limit)
        )
        with self._transaction() as connection:
            return [_request(row) for row in connection.execute(query)]

    def in_flight(self) -> list[TuningRequest]:
        """Return all requests that have a run or may have one, the earliest deadline first.

        These are the starting and launched requests, and the queued ones with a run or with
        `cancel_requested`. There is no limit: their number does not grow with the queue.
        """
        started = requests.c.state.in_([str(RequestState.STARTING), str(RequestState.LAUNCHED)])
        cancelled = _is_queued() & (requests.c.cancel_requested == sa.true())
        # Not `IS NOT NULL`, for which SQLite reads every queued row.
        with_run = (
            _is_queued() & (requests.c.cancel_requested == sa.false()) & (requests.c.run_id > "")
        )
        query = (
            sa.select(requests)
            .where(started | cancelled | with_run)
            .order_by(requests.c.deadline_at, requests.c.submitted_at)
        )
        with self._transaction() as connection:
            return [_request(row) for row in connection.execute(query)]

    def first_queued(self, base_models: Collection[str], limit: int) -> list[TuningRequest]:
        """Return, of each base model, the first `limit` queued requests by deadline.

        The queue of one model does not hide that of another, nor do requests of other models.
        """
        found: list[TuningRequest] = []
        with self._transaction() as connection:
            for base_model in base_models:
                query = (
                    sa.select(requests)
                    .where(_is_queued(), requests.c.base_model == base_model)
                    .order_by(requests.c.deadline_at, requests.c.submitted_at)
                    .limit(limit)
                )
                found += [_request(row) for row in connection.execute(query)]
        return found

    def has_queued(self, base_models: Collection[str] | None = None) -> bool:
        """Return whether a request of one of the base models is queued; by default of any model."""
        query = sa.select(requests.c.request_id).where(_is_queued()).limit(1)
        if base_models is not None:
            query = query.where(requests.c.base_model.in_(list(base_models)))
        with self._transaction() as connection:
            return connection.execute(query).first() is not None

    def count_queued(self) -> dict[str, int]:
        """Return how many requests of each base model are queued."""
        query = (
            sa.select(requests.c.base_model, sa.func.count())
            .where(_is_queued())
            .group_by(requests.c.base_model)
        )
        with self._transaction() as connection:
            return dict(connection.execute(query).tuples().all())

    def queued_work(self, base_model: str, until: datetime | None = None) -> list[QueuedWork]:
        """Return the work of all queued requests of a base model, the earliest deadline first.

        With `until`, only of those with deadlines up to that time.
        """
        is_before = sa.true() if until is None else requests.c.deadline_at <= until
        query = (
            sa.select(
                requests.c.deadline_at,
                requests.c.iterations_cold,
                requests.c.iterations_bank,
                requests.c.lookup,
            )
            .where(_is_queued(), requests.c.base_model == base_model, is_before)
            .order_by(requests.c.deadline_at, requests.c.submitted_at)
        )
        with self._transaction() as connection:
            return [QueuedWork(*row) for row in connection.execute(query)]

    def last_ended(self, limit: int) -> list[TuningRequest]:
        """Return the requests that have ended, the last one first."""
        query = (
            sa.select(requests)
            .where(
                requests.c.state.in_([str(s) for s in FINAL_STATES]),
                requests.c.finished_at.is_not(None),
            )
            .order_by(requests.c.finished_at.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [_request(row) for row in connection.execute(query)]

    def newest(self, limit: int, *, tenant: str | None = None) -> tuple[list[TuningRequest], int]:
        """Return at most `limit` requests, the newest last, and how many were left out.

        Open requests have precedence over those that have ended. With a `tenant` only that
        tenant's requests are returned and counted.
        """
        is_over = requests.c.state.in_([str(s) for s in FINAL_STATES])
        moment = sa.func.coalesce(requests.c.finished_at, requests.c.submitted_at)
        own = _belongs_to(tenant)
        query = sa.select(requests).where(own).order_by(is_over, moment.desc()).limit(limit)
        count = sa.select(sa.func.count()).select_from(requests).where(own)
        with self._transaction() as connection:
            rows = [_request(row) for row in connection.execute(query)]
            total = connection.scalar(count)
        rows.sort(key=lambda request: request.submitted_at)
        return rows, (total or 0) - len(rows)

    def get(self, request_id: str, *, tenant: str | None = None) -> TuningRequest:
        """Return the request of that id; raise `RequestError` when it does not exist.

        With a `tenant` another tenant's request does not exist either: the error is the same.
        """
        query = sa.select(requests).where(requests.c.request_id == request_id, _belongs_to(tenant))
        with self._transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RequestError(
                f"no tuning request {request_id!r}: `maitre requests list` lists all requests"
            )
        return _request(row)

    def submitted(
        self, task: str, base_model: str, tenant: str, idempotency_key: str | None
    ) -> TuningRequest | None:
        """Return the request that the tenant has submitted with the key, if there is one.

        Raises `RequestError` when that request is for another task or base model.
        """
        if idempotency_key is None:
            return None
        check_names(tenant=tenant, idempotency_key=idempotency_key)
        query = sa.select(requests).where(
            requests.c.tenant == tenant, requests.c.idempotency_key == idempotency_key
        )
        with self._transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        there = _request(row)
        if (there.task, there.base_model) != (task, base_model):
            raise RequestError(
                f"idempotency key {idempotency_key!r} stands for request "
                f"{there.request_id} (task {there.task}) of tenant {there.tenant}: "
                "give another key"
            )
        return there

    def submit(
        self,
        task: str,
        *,
        deadline_at: datetime,
        now: datetime,
        base_model: str = "",
        tenant: str = DEFAULT_TENANT,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> TuningRequest:
        """Add a request, or return the one that its tenant has submitted with the same key.

        The time and the state of that request do not matter: a client may ask again later. `fields`
        are more arguments of `new_request`. Raises `RequestError` for a value that is out of
        bounds, and for a key that stands for another task.
        """
        there = self.submitted(task, base_model, tenant, idempotency_key)
        if there is not None:
            return there
        return self.add(
            new_request(
                task,
                deadline_at=deadline_at,
                now=now,
                base_model=base_model,
                tenant=tenant,
                idempotency_key=idempotency_key,
                **fields,
            )
        )

    def add(self, request: TuningRequest) -> TuningRequest:
        """Add a new request; return the earlier one where another process has used its key."""
        try:
            with self._transaction() as connection:
                connection.execute(requests.insert().values(**vars(request)))
        except sa.exc.IntegrityError:
            there = self.submitted(
                request.task, request.base_model, request.tenant, request.idempotency_key
            )
            if there is None:
                raise
            return there
        return request

    def take(self, request_id: str, *, owner: str, now: datetime, hold_s: float) -> bool:
        """Let `owner` hold the request for `hold_s` to start its run; return whether it does.

        A queued request can be taken, and a starting one whose hold has run out without a run. A
        request with `cancel_requested` cannot.
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
        """Queue a request again that `owner` could not start; return whether `owner` held it.

        A request with `cancel_requested` ends as cancelled instead.
        """
        held = (requests.c.state == str(RequestState.STARTING)) & (requests.c.owner == owner)
        if self._end_cancelled(request_id, held, now or datetime.now(UTC)):
            return True
        released = {"owner": None, "held_until": None, "message": message}
        queued = str(RequestState.QUEUED)
        if self._change(request_id, held & ~requests.c.cancel_requested, state=queued, **released):
            return True
        # `cancel_requested` was set between these two statements.
        return self._end_cancelled(request_id, held, now or datetime.now(UTC))

    def end_cancelled(self, request_id: str, *, now: datetime) -> bool:
        """Cancel a request with `cancel_requested` that nobody holds; return whether it was one.

        Call it only for a request that has no run: the last holder may have started one.
        """
        return self._end_cancelled(request_id, _is_free(now), now)

    def reject(self, request_id: str, *, reason: str, now: datetime) -> bool:
        """End a request that waits for its first run as failed; return whether it waited.

        A request with `cancel_requested` is left alone: it ends as cancelled.
        """
        return self._change(
            request_id,
            _is_free(now) & ~requests.c.cancel_requested,
            state=str(RequestState.FAILED),
            owner=None,
            held_until=None,
            finished_at=now,
            message=reason,
        )

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
        """Change a request's state if it is still `expected`; return whether it was."""
        values: dict[str, Any] = {"state": str(state), "message": message}
        if run_id is not None:
            values["run_id"] = run_id
        if state in FINAL_STATES:
            values["finished_at"] = now or datetime.now(UTC)
        return self._change(request_id, requests.c.state == str(expected), **values)

    def bind_run(self, request_id: str, *, attempt: int, run_id: str) -> bool:
        """Bind the run to the request's attempt; return whether it is bound to it now.

        Of any number of runs for one attempt the first one that calls this is bound, for good. An
        attempt that is over binds no run.
        """
        is_open = requests.c.state.in_([str(state) for state in OPEN_STATES])
        unbound = requests.c.run_id.is_(None) | (requests.c.run_id == run_id)
        same = requests.c.attempt == attempt
        return self._change(request_id, is_open & unbound & same, run_id=run_id)

    def cancel(self, request_id: str, *, now: datetime, tenant: str | None = None) -> TuningRequest:
        """Cancel a queued request at once; ask for the run of a started one to be terminated.

        A started request keeps its state, with `cancel_requested` set, until its run has ended.
        Raises `RequestError` for a request that has ended, and, with a `tenant`, for a request of
        another tenant, as if it did not exist.
        """
        own = _belongs_to(tenant)
        queued = (requests.c.state == str(RequestState.QUEUED)) & own
        cancelled = {"state": str(RequestState.CANCELLED), "finished_at": now}
        is_started = requests.c.state.in_([str(RequestState.STARTING), str(RequestState.LAUNCHED)])
        started = is_started & own
        while True:
            if self._change(request_id, queued, message="cancelled in the queue", **cancelled):
                return self.get(request_id)
            if self._change(request_id, started, cancel_requested=True):
                return self.get(request_id)
            request = self.get(request_id, tenant=tenant)
            if request.state.is_final:
                raise RequestError(f"request {request_id} is {request.state} already")

    def to_retry(
        self,
        request_id: str,
        *,
        now: datetime,
        deadline_at: datetime | None = None,
        tenant: str | None = None,
    ) -> TuningRequest:
        """Return a failed or cancelled request with the deadline that `retry` would give it.

        Raises `RequestError` for a request in any other state, when its deadline has passed and no
        new one is given, and, with a `tenant`, for a request of another tenant, as if it did not
        exist.
        """
        request = self.get(request_id, tenant=tenant)
        if request.state not in (RequestState.FAILED, RequestState.CANCELLED):
            raise RequestError(
                f"request {request_id} is {request.state}: "
                "only a failed or cancelled request can be tried again"
            )
        new_at, now = in_utc("deadline", deadline_at or request.deadline_at), in_utc("time", now)
        if deadline_at is None and new_at <= now:
            raise RequestError(
                f"request {request_id}: its deadline has passed; give a new one with --deadline"
            )
        check_deadline(new_at, now)
        return replace(request, deadline_at=new_at)

    def retry(
        self,
        request_id: str,
        *,
        now: datetime,
        deadline_at: datetime | None = None,
        predicted_finish_at: datetime | None = None,
        predicted_price: float | None = None,
        tenant: str | None = None,
    ) -> TuningRequest:
        """Queue a failed or cancelled request again, as its next attempt, with a new forecast.

        Raises what `to_retry` raises.
        """
        request = self.to_retry(request_id, now=now, deadline_at=deadline_at, tenant=tenant)
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
            raise RequestError(f"request {request_id}: another retry has queued it already")
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
        """Set the values where the condition `holds`; return whether it did."""
        change = requests.update().where(requests.c.request_id == request_id, holds)
        with self._transaction() as connection:
            return connection.execute(change.values(**values)).rowcount == 1

    def _transaction(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction, which commits when its block ends."""
        return transaction(self.url)


def _belongs_to(tenant: str | None) -> sa.ColumnElement[bool]:
    """Return the condition that a request is the tenant's; any request's where none is given."""
    return sa.true() if tenant is None else requests.c.tenant == tenant


def _is_queued() -> sa.ColumnElement[bool]:
    return requests.c.state == str(RequestState.QUEUED)


def _is_free(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a request is queued, or was held too long without a run."""
    starting = requests.c.state == str(RequestState.STARTING)
    held_too_long = starting & (requests.c.held_until < now) & requests.c.run_id.is_(None)
    return _is_queued() | held_too_long


def _request(row: sa.Row) -> TuningRequest:
    values = dict(row._mapping)
    values["state"] = RequestState(values["state"])
    return TuningRequest(**values)
