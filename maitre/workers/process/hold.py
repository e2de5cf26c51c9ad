"""A worker's hold on the run that it executes: what it asks and tells of the run's placement.

A database that is away for a moment, as when its pod is replaced, ends neither the run nor the
worker.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from maitre.workers.leases import LEASE_S, PlacementLost, PlacementStore
from maitre.workers.process.running import Running
from maitre.workers.transient_errors import PASSING, first_line

Answer = TypeVar("Answer")
_ASK_AGAIN_S = 0.25


@dataclass(frozen=True)
class Hold:
    """The hold on one run; a database that does not answer is asked again for `patience_s`."""

    placements: PlacementStore
    running: Running
    log: logging.Logger
    patience_s: float = LEASE_S

    def check(self) -> None:
        """Raise `PlacementLost` when the run is not this worker's (any more).

        A worker that cannot find out for as long as a lease is given writes nothing more of it.
        """
        try:
            is_mine = self._patiently(self._is_current)
        except PASSING as error:
            self.running.given_up = f"the database does not answer: {first_line(error)}"
            raise PlacementLost(self.running.given_up) from None
        if not is_mine:
            raise PlacementLost("another worker has been given this run")

    def renew(self) -> None:
        """Prolong the lease and tell how far the run is."""
        claim, reached = self.running.claim, self.running.progress.iteration
        try:
            self.placements.renew(
                claim.run_id, claim.attempt, now=datetime.now(UTC), iterations=reached
            )
        except Exception:
            # The database may be away for a while; the lease then runs out by itself.
            self.log.exception("could not renew the lease of run %s", claim.run_id)

    def end(self) -> None:
        """Tell that the run is over. What cannot be told Dagster's storage says, too."""
        try:
            self._patiently(self.placements.end)
        except PASSING as error:
            run_id = self.running.claim.run_id
            self.log.warning("could not tell that run %s is over: %s", run_id, first_line(error))

    def give_back(self, why: str, let_go: Callable[[str], None]) -> None:
        """Let another worker have the run; `let_go` gives back first what it holds of Dagster's.

        Where that cannot be told, this worker's saying that it does not have the run does it.
        """
        claim, reached = self.running.claim, self.running.progress.iteration
        try:
            if claim.rank == 0 and self.placements.is_current(claim.run_id, claim.attempt):
                let_go(claim.run_id)
            self.placements.release(claim.run_id, claim.attempt, why, reached)
        except Exception:
            # Dagster's storage has errors of its own for a database that is away.
            self.log.exception("could not give run %s back", claim.run_id)

    def _is_current(self, run_id: str, attempt: str) -> bool:
        if self.running.given_up is not None:
            raise PlacementLost(self.running.given_up)
        return self.placements.is_current(run_id, attempt)

    def _patiently(self, ask: Callable[[str, str], Answer]) -> Answer:
        claim = self.running.claim
        give_up_at_s = time.monotonic() + self.patience_s
        while True:
            try:
                return ask(claim.run_id, claim.attempt)
            except PASSING as error:
                if time.monotonic() >= give_up_at_s:
                    raise
                self.log.warning("asked again of run %s: %s", claim.run_id, first_line(error))
            time.sleep(_ASK_AGAIN_S)
