"""A tick of the sensor daemon: rounds of the scheduler for a few seconds.

The daemon calls a sensor every 5 s, and starts the runs that it requests only after the call. So
the scheduler makes a round within its tick whenever something may have changed (a request was
added, a worker may have become idle), and launches runs itself through GraphQL.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from maitre.requests.request import TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.graphql import GraphqlError, launch_held
from maitre.workers.pool.pool import WarmPool
from maitre.workers.scheduling.round import Round, StartRun, now_utc, schedule
from maitre.workers.scheduling.runs import Runs
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

WATCH_S = 4.0
"""How long a tick lasts: the daemon's loop takes 5 s, and calls other sensors in it."""

_ROUND_EVERY_S = 0.4
_LOOK_EVERY_S = 0.15


@dataclass(frozen=True)
class Tick:
    """One tick. `waiting` writes the states of runs to the queue; returns requests without one."""

    settings: Settings
    runs: Runs
    pool: WarmPool
    waiting: Callable[[], Sequence[TuningRequest]]
    report: Callable[[str], None]
    for_s: float = WATCH_S

    def starts(self) -> list[StartRun]:
        """Make rounds until the time is up; return the starts that are left to Dagster.

        These are all starts of the last round when there is no webserver, or when the webserver
        has refused to launch them.
        """
        until_s = time.monotonic() + self.for_s
        while True:
            left, done = self._round(now_utc())
            if left or not self.settings.dagster_url:
                return left
            pause_s = _ROUND_EVERY_S if done.unsettled else _LOOK_EVERY_S
            while time.monotonic() + pause_s < until_s:
                time.sleep(pause_s)
                if done.unsettled or self._store.has_queued(done.base_models):
                    break
            else:
                return []

    def _round(self, now: datetime) -> tuple[list[StartRun], Round]:
        """Make one round; return the starts that it could not launch, and its result."""
        done = schedule(self.settings, self.runs, self.pool, self.waiting(), now)
        for note in done.notes:
            self.report(note)
        can_launch = bool(self.settings.dagster_url)
        left = [start for start in done.starts if not (can_launch and self._launch(start))]
        return left, done

    def _launch(self, start: StartRun) -> bool:
        """Launch a run; return whether it was launched, or may have been."""
        what = f"{start.request.request_id} on {', '.join(start.workers)}"
        try:
            is_certain = launch_held(
                self.settings, self._store, start.request, start.workers, start.lookup
            )
        except GraphqlError as error:
            self.report(f"{start.request.request_id} is left to Dagster: {error}")
            return False
        except TRANSIENT_ERRORS as error:
            # The run is launched, but its row does not say so. The next tick finds it by its tag.
            self.report(f"launched {what}; its request is not updated yet: {first_line(error)}")
            return True
        self.report(f"launched {what}" if is_certain else f"may have launched {what}")
        return True

    @property
    def _store(self) -> RequestStore:
        return RequestStore(self.settings.request_queue_url)
