"""A tuning request: its fields, its states, its defaults, and what a new one must satisfy."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from maitre.errors import UserError
from maitre.tenants import DEFAULT_TENANT

DEFAULT_ITERATIONS = 40
"""The optimiser steps of a request that names no number; also its default estimate."""
MAX_NAME_LENGTH = 200
"""The most characters of a name or key, as wide as the columns of the tables."""
MAX_ITERATIONS = 1_000_000
HANDED_TO = "worker "
"""The prefix of a starting request's owner before the names of the workers that get its run."""


class RequestState(StrEnum):
    """The state of a request; the last three are final.

    In `starting` one launcher holds the request for a while; it starts a run or gives it back.
    """

    QUEUED = "queued"
    STARTING = "starting"
    LAUNCHED = "launched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Return whether the state changes only by a retry."""
        return self in FINAL_STATES


FINAL_STATES = (RequestState.DONE, RequestState.FAILED, RequestState.CANCELLED)
OPEN_STATES = tuple(state for state in RequestState if state not in FINAL_STATES)


class RequestError(UserError):
    """A request cannot be accepted, found or changed; the message names it and the reason."""


@dataclass(frozen=True)
class TuningRequest:
    """A task to tune by a deadline.

    `attempt` counts from 1 and rises with every retry. `iterations_cold` and `iterations_bank` are
    the estimated iterations from a cold start and from the bank's start; `lookup` asks the prompt
    bank for a start. `owner` holds a starting request until `held_until`. `predicted_finish_at` and
    `predicted_price` are the forecast at submission.
    """

    request_id: str
    task: str
    base_model: str
    tenant: str
    submitted_at: datetime
    deadline_at: datetime
    state: RequestState
    attempt: int = 1
    iterations_cold: float = float(DEFAULT_ITERATIONS)
    iterations_bank: float = float(DEFAULT_ITERATIONS)
    max_iterations: int = DEFAULT_ITERATIONS
    lookup: bool = True
    idempotency_key: str | None = None
    predicted_finish_at: datetime | None = None
    predicted_price: float | None = None
    owner: str | None = None
    held_until: datetime | None = None
    cancel_requested: bool = False
    run_id: str | None = None
    finished_at: datetime | None = None
    message: str | None = None

    @property
    def handed_to(self) -> list[str]:
        """Return the workers that a starting request's run goes to; empty when any will do."""
        owner = self.owner or ""
        return owner.removeprefix(HANDED_TO).split(",") if owner.startswith(HANDED_TO) else []

    @property
    def run_key(self) -> str:
        """Return the key of this attempt's run: at most one run has it."""
        return f"{self.request_id}-{self.attempt}"


def new_request(
    task: str,
    *,
    deadline_at: datetime,
    now: datetime,
    base_model: str = "",
    tenant: str = DEFAULT_TENANT,
    idempotency_key: str | None = None,
    max_iterations: int = DEFAULT_ITERATIONS,
    iterations_cold: float | None = None,
    iterations_bank: float | None = None,
    lookup: bool = True,
) -> TuningRequest:
    """Return a queued request with an id of its own; nothing is written.

    An estimate that is not given is `max_iterations`. Raises `RequestError` when the deadline is
    not after `now`, a time has no zone, or a field is out of bounds.
    """
    now, deadline_at = in_utc("time", now), in_utc("deadline", deadline_at)
    check_deadline(deadline_at, now)
    check_names(
        task=task, base_model=base_model or None, tenant=tenant, idempotency_key=idempotency_key
    )
    if not 1 <= max_iterations <= MAX_ITERATIONS:
        raise RequestError(
            f"max_iterations: expected 1 to {MAX_ITERATIONS:,}; got {max_iterations}"
        )
    return TuningRequest(
        request_id=uuid.uuid4().hex,
        task=task,
        base_model=base_model,
        tenant=tenant,
        submitted_at=now,
        deadline_at=deadline_at,
        state=RequestState.QUEUED,
        iterations_cold=float(max_iterations if iterations_cold is None else iterations_cold),
        iterations_bank=float(max_iterations if iterations_bank is None else iterations_bank),
        max_iterations=max_iterations,
        lookup=lookup,
        idempotency_key=idempotency_key,
    )


def check_deadline(deadline_at: datetime, now: datetime) -> None:
    """Raise `RequestError` when the deadline is not after `now`."""
    if deadline_at <= now:
        raise RequestError(
            f"deadline {deadline_at:%Y-%m-%d %H:%M:%S %Z} has passed: expected a time after "
            f"{now:%Y-%m-%d %H:%M:%S %Z}"
        )


def check_names(**names: str | None) -> None:
    """Raise `RequestError` for a name that is empty or too long; `None` stands for no name."""
    for field, name in names.items():
        what = field.replace("_", " ")
        if name is not None and not name.strip():
            raise RequestError(f"{what}: must not be empty")
        if name is not None and len(name) > MAX_NAME_LENGTH:
            raise RequestError(
                f"{what} {name[:20]}…: expected at most {MAX_NAME_LENGTH} characters; "
                f"got {len(name)}"
            )


def in_utc(name: str, moment: datetime) -> datetime:
    """Return the moment in UTC; raise `RequestError` naming it when it has no time zone."""
    if moment.tzinfo is None:
        raise RequestError(f"{name} {moment.isoformat()} has no time zone: expected one, as +00:00")
    return moment.astimezone(UTC)
