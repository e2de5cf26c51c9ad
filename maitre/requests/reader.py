"""Reads the request queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from maitre.requests.acceptance import check_names
from maitre.requests.request import (
    FINAL_STATES,
    RequestError,
    RequestState,
    TuningRequest,
)
from maitre.requests.tables import engine, requests


@dataclass(frozen=True)
class RequestReader:
    """Tuning requests kept under a SQLAlchemy URL, to look at."""

    url: str

    def find(
        self, states: Sequence[RequestState] = tuple(RequestState), limit: int = 1000
    ) -> list[TuningRequest]:
        """Requests in any of `states`, the earliest deadline first."""
        query = (
            sa.select(requests)
            .where(requests.c.state.in_([str(s) for s in states]))
            .order_by(requests.c.deadline_at, requests.c.submitted_at)
            .limit(limit)
        )
        with self._begin() as connection:
            return [_request(row) for row in connection.execute(query)]

    def last_ended(self, limit: int) -> list[TuningRequest]:
        """The requests that have ended, the last one first."""
        query = (
            sa.select(requests)
            .where(requests.c.state.in_([str(s) for s in FINAL_STATES]))
            .order_by(requests.c.finished_at.desc())
            .limit(limit)
        )
        with self._begin() as connection:
            return [_request(row) for row in connection.execute(query)]

    def newest(self, limit: int) -> tuple[list[TuningRequest], int]:
        """Open requests and the last ended ones, the newest last; and how many others there are.

        The open ones come first: with more than `limit` of them the newest, and none that ended.
        """
        is_over = requests.c.state.in_([str(s) for s in FINAL_STATES])
        moment = sa.func.coalesce(requests.c.finished_at, requests.c.submitted_at)
        query = sa.select(requests).order_by(is_over, moment.desc()).limit(limit)
        with self._begin() as connection:
            rows = [_request(row) for row in connection.execute(query)]
            total = connection.scalar(sa.select(sa.func.count()).select_from(requests))
        rows.sort(key=lambda request: request.submitted_at)
        return rows, total - len(rows)

    def get(self, request_id: str) -> TuningRequest:
        """The request of that id; `RequestError` when there is none."""
        query = sa.select(requests).where(requests.c.request_id == request_id)
        with self._begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RequestError(f"no tuning request {request_id!r}")
        return _request(row)

    def submitted(
        self, task: str, base_model: str, tenant: str, idempotency_key: str | None
    ) -> TuningRequest | None:
        """The request for which the tenant has used the key; `None` when there is none.

        Raises `RequestError` when that is for another task or base model.
        """
        if idempotency_key is None:
            return None
        check_names(tenant=tenant, idempotency_key=idempotency_key)
        query = sa.select(requests).where(
            requests.c.tenant == tenant, requests.c.idempotency_key == idempotency_key
        )
        with self._begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        there = _request(row)
        if (there.task, there.base_model) != (task, base_model):
            raise RequestError(
                f"idempotency key {idempotency_key!r} stands for request "
                f"{there.request_id} (task {there.task}) of tenant {there.tenant}"
            )
        return there

    def _begin(self) -> Any:
        return engine(self.url).begin()


def _request(row: sa.Row) -> TuningRequest:
    values = dict(row._mapping)
    values["state"] = RequestState(values["state"])
    return TuningRequest(**values)
