"""What a tuning request is."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RequestState(StrEnum):
    """Where a request stands; the last three are final.

    `starting`: handed to one launcher, which holds it for a while and either makes a run of it or
    gives it back.
    """

    QUEUED = "queued"
    STARTING = "starting"
    LAUNCHED = "launched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to such a request by itself."""
        return self in FINAL_STATES


FINAL_STATES = (RequestState.DONE, RequestState.FAILED, RequestState.CANCELLED)
OPEN_STATES = tuple(state for state in RequestState if state not in FINAL_STATES)


class RequestError(ValueError):
    """A request cannot be taken, found or changed; the message says which and why."""


@dataclass(frozen=True)
class TuningRequest:
    """A task to tune by a deadline.

    `attempt` counts from 1 and rises with every retry. `iterations_cold` and `iterations_bank` are
    estimates; `lookup` asks the bank for a start. `owner` holds a starting request until
    `held_until`. `predicted_finish_at` and `predicted_price` are what was told at submission.
    """

    request_id: str
    task: str
    base_model: str
    tenant: str
    submitted_at: datetime
    deadline_at: datetime
    state: RequestState
    attempt: int = 1
    iterations_cold: float = 40.0
    iterations_bank: float = 40.0
    max_iterations: int = 40
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
    def run_key(self) -> str:
        """The key under which this attempt is run: at most one run has it."""
        return f"{self.request_id}-{self.attempt}"
