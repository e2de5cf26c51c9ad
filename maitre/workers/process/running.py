"""A claim that a worker works on, and what the worker does it with."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from maitre.workers.pool.protocol import Claim, ClaimView
from maitre.workers.process.held_run import Progress


class Execute(Protocol):
    """Runs a Dagster run to its end; `before_write` guards everything it writes."""

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        """Return when the run is over; raise `PlacementLost` when it is given up."""
        ...


def nothing_more(run_id: str) -> None:
    """For runs that hold nothing beside their worker."""


class Help(Protocol):
    """Tunes along with the worker that executes a run, until that is over."""

    def __call__(self, claim: Claim, *, is_leaving: Callable[[], bool]) -> None:
        """Return or raise when it is; raise too when this worker is to leave."""
        ...


@dataclass
class Running:
    """A claim under way."""

    claim: Claim
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    # Set when this worker gives the run up: from then on it writes nothing more of it.
    given_up: str | None = None
    started: bool = False
    why_stop: str = ""

    def view(self) -> ClaimView:
        """How far it is."""
        seen = self.progress
        return ClaimView(
            self.claim.attempt,
            self.claim.run_id,
            seen.phase,
            seen.iteration,
            seen.iterations,
            dict(seen.marks),
            self.claim.rank,
            self.claim.size,
        )
