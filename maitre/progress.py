"""How far a long computation is: the callback that reports it, and one that writes it to a log."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

ReportLine = Callable[[str], None]
"""A callback that gets one line about what is being done, where no parts are counted."""


class Progress(Protocol):
    """A callback that a long computation calls as its parts end."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Report that `done` of `total` parts are done; `note` names the stage or adds a figure."""


def ignore_progress(done: int, total: int, note: str = "") -> None:
    """Report nothing."""


class LoggedProgress:
    """A `Progress` that logs at most once every `every_s` seconds, and once at the end."""

    def __init__(
        self,
        log: logging.Logger,
        what: str,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._what = what
        self._every_s = every_s
        self._clock = clock
        self._last_s = clock()

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Log `DONE of TOTAL WHAT, NOTE` unless a line was logged less than `every_s` ago."""
        now_s = self._clock()
        if done >= total or now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            self._log.info(f"{done} of {total} {self._what}{f', {note}' if note else ''}")
