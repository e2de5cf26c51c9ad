"""Tells how far a long computation is, in the asset's log, a few times a minute."""

import logging
import time


class Progress:
    """A callback `(done, total)` that logs at most every `every_s` seconds, and at the end."""

    def __init__(self, log: logging.Logger, what: str, every_s: float = 5.0) -> None:
        self._log = log
        self._what = what
        self._every_s = every_s
        self._last_s = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Tell that `done` of `total` are done."""
        now_s = time.monotonic()
        if done >= total or now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            self._log.info(f"{done} of {total} {self._what}{f', {note}' if note else ''}")
