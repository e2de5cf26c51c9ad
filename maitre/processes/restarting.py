"""A service that is started again when it ends, with growing pauses, up to a limit."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from maitre.processes.child import ChildProcess
from maitre.processes.service_error import ServiceError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MOST_RESTARTS = 5
WITHIN_S = 600.0
"""A service that ends more than `MOST_RESTARTS` times in this time is not started again."""


@dataclass
class RestartingService:
    """A child process, and how to start it again. `report` gets a line for the user."""

    start: Callable[[], ChildProcess]
    report: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    child: ChildProcess = field(init=False)
    _ended_s: list[float] = field(init=False, default_factory=list)
    _start_at_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Start the service."""
        self.child = self.start()

    def check(self) -> None:
        """Start the service again if it has ended and its pause is over.

        Raises:
            ServiceError: it has ended too often.
        """
        if self.child.is_running():
            return
        now_s = self.clock()
        if self._start_at_s is None:
            # Its own children may still run, and hold its port.
            self.child.signal_group(signal.SIGKILL)
            self._ended_s = [s for s in self._ended_s if now_s - s < WITHIN_S] + [now_s]
            name, code, log = self.child.name, self.child.exit_code(), self.child.log
            if len(self._ended_s) > MOST_RESTARTS:
                raise ServiceError(
                    f"{name} ended {len(self._ended_s)} times in {WITHIN_S / 60:.0f} minutes, the "
                    f"last time with exit code {code}; see {log}"
                )
            pause_s = min(FIRST_PAUSE_S * 2 ** (len(self._ended_s) - 1), LONGEST_PAUSE_S)
            self._start_at_s = now_s + pause_s
            self.report(f"{name} ended with exit code {code}: starts again in {pause_s:g} s; {log}")
        if now_s >= self._start_at_s:
            self._start_at_s = None
            self.child = self.start()
