"""A child process: start it with a log file, signal its process group, and stop it."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from maitre.processes.service_error import ServiceError


@dataclass(frozen=True)
class ChildProcess:
    """A child process in a process group of its own, so that its children end with it.

    Its standard input is empty. Its output is appended to `log`.
    """

    name: str
    process: subprocess.Popen
    log: Path

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> Self:
        """Start the command with exactly this environment, and return at once.

        The folder of the log file is created.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """Return the process id, which is also the id of its process group."""
        return self.process.pid

    def exit_code(self) -> int | None:
        """Return the exit code; `None` while the process runs."""
        return self.process.poll()

    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self.exit_code() is None

    def check_running(self) -> None:
        """Raise `ServiceError` when the process has ended."""
        if (code := self.exit_code()) is not None:
            raise ServiceError(f"{self.name} ended with exit code {code}; see {self.log}")

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children; do nothing if they have ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the process to end; return whether it ended in time."""
        try:
            self.process.wait(timeout=max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout_s: float, first: signal.Signals = signal.SIGINT) -> None:
        """Send `first` to the group, wait, and kill the group when the time is up.

        Do nothing if the process has ended.
        """
        if self.is_running():
            self.signal_group(first)
        self.kill_after(timeout_s)

    def kill_after(self, timeout_s: float) -> None:
        """Wait for the process to end; kill its group when the time is up."""
        if not self.wait(timeout_s):
            self.signal_group(signal.SIGKILL)
            self.process.wait()
