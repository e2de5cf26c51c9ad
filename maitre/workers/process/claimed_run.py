"""A run that a worker has claimed: its state, and the lease that the worker holds on it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from maitre.workers.leases import LEASE_S, LeaseLost, LeaseStore
from maitre.workers.pool.protocol import Claim, ClaimView
from maitre.workers.process.run_context import Progress
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

Answer = TypeVar("Answer")
_RETRY_EVERY_S = 0.25


class Execute(Protocol):
    """Executes a Dagster run to its end; calls `before_write` before everything that it writes."""

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        """Return when the run is over; raise `LeaseLost` when this worker releases it."""
        ...


class Help(Protocol):
    """Tunes together with the worker that executes a run, until the run is over."""

    def __call__(self, claim: Claim, *, is_leaving: Callable[[], bool]) -> None:
        """Return or raise when the run is over; raise when this worker is asked to leave."""
        ...


def release_nothing(run_id: str) -> None:
    """Do nothing: for runs that hold nothing but their worker."""


@dataclass
class ClaimedRun:
    """A claim that this worker works on.

    `given_up` is the reason why this worker releases the run: once it is set, this worker writes
    nothing more for the run. `stop_reason` is the reason why `stop` was set.
    """

    claim: Claim
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    given_up: str | None = None
    started: bool = False
    stop_reason: str = ""

    def view(self) -> ClaimView:
        """Return how far the run is, as the worker reports it."""
        progress = self.progress
        return ClaimView(
            self.claim.attempt,
            self.claim.run_id,
            progress.phase,
            progress.iteration,
            progress.iterations,
            dict(progress.marks),
            self.claim.rank,
            self.claim.size,
        )


@dataclass(frozen=True)
class LeaseGuard:
    """Checks, renews and ends the lease of one claimed run.

    While the database does not answer (its pod is being replaced, for example), a call is repeated
    for `patience_s`: a short outage ends neither the run nor the worker.
    """

    leases: LeaseStore
    run: ClaimedRun
    log: logging.Logger
    patience_s: float = LEASE_S

    def check(self) -> None:
        """Raise `LeaseLost` when this worker no longer holds the run.

        A worker that cannot find out within `patience_s` releases the run.
        """
        try:
            is_current = self._repeat_while_away(self._is_current)
        except TRANSIENT_ERRORS as error:
            self.run.given_up = f"the database does not answer: {first_line(error)}"
            raise LeaseLost(self.run.given_up) from None
        if not is_current:
            raise LeaseLost("another worker has been given this run")

    def renew(self) -> None:
        """Renew the lease and record how far the run is."""
        claim, iterations = self.run.claim, self.run.progress.iteration
        try:
            self.leases.renew(
                claim.run_id, claim.attempt, now=datetime.now(UTC), iterations=iterations
            )
        except Exception:
            # During an outage of the database the lease runs out by itself.
            self.log.exception("could not renew the lease of run %s", claim.run_id)

    def end(self) -> None:
        """Record that the run is over. If that fails, Dagster's storage still knows it."""
        try:
            self._repeat_while_away(self.leases.end)
        except TRANSIENT_ERRORS as error:
            self.log.warning(
                "could not record that run %s is over: %s",
                self.run.claim.run_id,
                first_line(error),
            )

    def release(self, reason: str, release_slots: Callable[[str], None]) -> None:
        """Give back the run's slots in Dagster, then release the run for another worker.

        If that fails, the scheduler finds out from this worker, which no longer reports the run.
        """
        claim, iterations = self.run.claim, self.run.progress.iteration
        try:
            if claim.rank == 0 and self.leases.is_current(claim.run_id, claim.attempt):
                release_slots(claim.run_id)
            self.leases.release(claim.run_id, claim.attempt, reason, iterations)
        except Exception:
            # Dagster's storage raises errors of its own when its database does not answer.
            self.log.exception("could not release run %s", claim.run_id)

    def _is_current(self, run_id: str, attempt: str) -> bool:
        if self.run.given_up is not None:
            raise LeaseLost(self.run.given_up)
        return self.leases.is_current(run_id, attempt)

    def _repeat_while_away(self, ask: Callable[[str, str], Answer]) -> Answer:
        """Call `ask` for this claim; repeat the call while the database does not answer."""
        claim = self.run.claim
        give_up_at_s = time.monotonic() + self.patience_s
        while True:
            try:
                return ask(claim.run_id, claim.attempt)
            except TRANSIENT_ERRORS as error:
                if time.monotonic() >= give_up_at_s:
                    raise
                self.log.warning("asking again for run %s: %s", claim.run_id, first_line(error))
            time.sleep(_RETRY_EVERY_S)
