"""The HTTP protocol of launcher, pool and worker, as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

WorkerState = Literal["loading", "idle", "busy", "draining"]


@dataclass(frozen=True)
class Claim:
    """A run for a worker, with the attempt id and the number of its lease.

    To claim twice with one attempt is to claim once. `resume` says that an earlier worker has begun
    the run. Of the `size` workers of a run, the one of rank 0 executes it; the others compute a
    part of each step.
    """

    attempt: str
    run_id: str
    number: int = 1
    resume: bool = False
    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class ClaimView:
    """How far a worker is with a claim; `marks` are wall-clock times in s."""

    attempt: str
    run_id: str
    phase: str
    iteration: int
    iterations: int
    marks: dict[str, float]
    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class WorkerView:
    """A worker's state as it reports it; `since_s` and `started_s` are wall-clock times in s."""

    worker: str
    base_model: str
    state: WorkerState
    since_s: float
    started_s: float
    claim: ClaimView | None = None
    last: ClaimView | None = None
    load_s: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the view as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` returns."""
        claims = {
            name: ClaimView(**document[name]) if document.get(name) else None
            for name in ("claim", "last")
        }
        return cls(**{**document, **claims})
