"""The request queue as a Dagster resource."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import RequestStore


class RequestQueue(dg.ConfigurableResource):
    """Tuning requests in the database of a SQLAlchemy URL; `store()` has every operation."""

    url: str

    def store(self) -> RequestStore:
        """Return the queue itself."""
        return RequestStore(self.url)

    def submit(
        self, task: str, *, deadline_at: datetime, now: datetime, **fields: Any
    ) -> TuningRequest:
        """Add a request; see `RequestStore.submit`."""
        return self.store().submit(task, deadline_at=deadline_at, now=now, **fields)

    def find(
        self, states: Sequence[RequestState] = tuple(RequestState), limit: int | None = None
    ) -> list[TuningRequest]:
        """Return the requests in any of `states`, the earliest deadline first."""
        return self.store().find(states, limit)

    def get(self, request_id: str) -> TuningRequest:
        """Return the request of that id; raise `RequestError` if it does not exist."""
        return self.store().get(request_id)

    def move(
        self, request_id: str, *, expected: RequestState, state: RequestState, **values: Any
    ) -> bool:
        """Change a request's state if it is still `expected`; return whether it was."""
        return self.store().move(request_id, expected=expected, state=state, **values)
