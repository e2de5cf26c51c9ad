"""Rounds of the scheduler for a few seconds: what a tick of Dagster's sensor daemon does.

The daemon asks a sensor every 5 s and starts what it returns after that. Within its tick the
scheduler therefore looks again whenever something may have changed (a request has come, a worker
may have become idle), and starts runs itself through GraphQL.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.graphql import GraphqlError, launch_held
from maitre.workers.pool.pool import WarmPool
from maitre.workers.scheduling.round import StartRun, now_utc, schedule
from maitre.workers.scheduling.runs import Runs
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

WATCH_S = 4.0
"""How long a tick lasts; the daemon's loop takes 5 s, and other sensors want a turn in it."""

_ROUND_EVERY_S = 0.4
_LOOK_EVERY_S = 0.15


@dataclass(frozen=True)
class Tick:
    """A tick. `waiting` notes what became of the runs and gives the requests without one."""

    settings: Settings
    runs: Runs
    pool: WarmPool
    waiting: Callable[[], Sequence[TuningRequest]]
    tell: Callable[[str], None]
    for_s: float = WATCH_S

    def starts(self) -> list[StartRun]:
        """Look, decide and act until the time is up; what Dagster is left to start.

        Without a webserver, or when it does not do what it is asked, that is what the last round
        decided.
        """
        until_s = time.monotonic() + self.for_s
        while True:
            left, unsettled = self._round(now_utc())
            if left or not self.settings.dagster_url:
                return left
            pause_s = _ROUND_EVERY_S if unsettled else _LOOK_EVERY_S
            while time.monotonic() + pause_s < until_s:
                time.sleep(pause_s)
                if unsettled or self._has_come():
                    break
            else:
                return []

    def _round(self, now: datetime) -> tuple[list[StartRun], bool]:
        """One round: what is left to be started, and whether another could start more soon."""
        done = schedule(self.settings, self.runs, self.pool, self.waiting(), now)
        for note in done.notes:
            self.tell(note)
        can_launch = bool(self.settings.dagster_url)
        left = [start for start in done.starts if not (can_launch and self._launched(start))]
        return left, done.unsettled

    def _launched(self, start: StartRun) -> bool:
        """Whether the run was launched, or may have been."""
        what = f"{start.request.request_id} on {', '.join(start.workers)}"
        try:
            is_certain = launch_held(
                self.settings, self._store, start.request, start.workers, start.lookup
            )
        except GraphqlError as error:
            self.tell(f"{start.request.request_id} is left to Dagster: {error}")
            return False
        except TRANSIENT_ERRORS as error:
            # It is launched and its row does not say so; the next tick sees the run by its tag.
            self.tell(f"launched {what}, not noted: {first_line(error)}")
            return True
        self.tell(f"launched {what}" if is_certain else f"may have launched {what}")
        return True

    def _has_come(self) -> bool:
        return bool(self._store.find([RequestState.QUEUED], limit=1))

    @property
    def _store(self) -> RequestStore:
        return RequestStore(self.settings.request_queue_url)
