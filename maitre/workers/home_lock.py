"""One `maitre up` per home: a lock that its process holds, and a record of what it started.

Each child process has the id of its `maitre up` in its environment, and hands it on to its own
children. So they are found when the process that started them was killed, whatever became of
process ids and groups in between.
"""

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import psutil

from maitre.errors import UserError
from maitre.files import write_text
from maitre.processes.environment import UP_ID
from maitre.processes.identity import identity_of, is_alive

_LOCK, _RECORD = "up.lock", "up.json"


@dataclass(frozen=True)
class UpRecord:
    """A `maitre up` that runs or was killed: its id, process and addresses."""

    id: str
    pid: int
    identity: str
    addresses: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """Return the record in a home; `None` where there is none or it cannot be read."""
        try:
            return cls(**json.loads((home / _RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def is_running(self) -> bool:
        """Return whether the process of this `maitre up` runs."""
        return is_alive(self.pid, self.identity)

    def processes(self) -> list[psutil.Process]:
        """Return the processes that it has started, and theirs, which still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(UP_ID) == self.id and _runs(process):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                # It has ended, or it is another user's.
                continue
        return [process for process in found if process.pid != os.getpid()]


class HomeLock:
    """The lock of a home, held until `release` or the end of the process."""

    def __init__(self, home: Path, file: int, record: UpRecord) -> None:
        self.home = home
        self.record = record
        self._file = file

    @classmethod
    def acquire(cls, home: Path, addresses: Mapping[str, str]) -> Self:
        """Lock a home for this process, and write the record.

        Raises:
            UserError: another `maitre up` runs there, or has left processes.
        """
        home.mkdir(parents=True, exist_ok=True)
        file = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise UserError(_runs_already(home, UpRecord.read(home))) from None
        before = UpRecord.read(home)
        left = before.processes() if before is not None else []
        if left:
            os.close(file)
            raise UserError(
                f"{home}: a maitre up that was killed has left {len(left)} processes (the first is "
                f"{left[0].pid}): end them with `maitre down`"
            )
        pid = os.getpid()
        record = UpRecord(secrets.token_hex(8), pid, identity_of(pid) or "", dict(addresses))
        write_text(home / _RECORD, json.dumps(asdict(record)) + "\n")
        return cls(home, file, record)

    def release(self) -> None:
        """Remove the record and give the lock back."""
        (self.home / _RECORD).unlink(missing_ok=True)
        os.close(self._file)


def end_system(home: Path, timeout_s: float) -> int:
    """End the `maitre up` of a home and all that it started; return the number of processes.

    The process of `maitre up` itself is asked first, and has twice `timeout_s` seconds: it stops
    what it has started. What is left then has `timeout_s` seconds before it is killed.
    """
    record = UpRecord.read(home)
    if record is None:
        return 0
    ended = 0
    if record.is_running():
        ended += 1
        os.kill(record.pid, signal.SIGTERM)
        give_up_at_s = time.monotonic() + 2 * timeout_s
        while record.is_running() and time.monotonic() < give_up_at_s:
            time.sleep(0.05)
        if record.is_running():
            os.kill(record.pid, signal.SIGKILL)
    left = record.processes()
    end_processes(left, timeout_s)
    (home / _RECORD).unlink(missing_ok=True)
    return ended + len(left)


def end_processes(processes: list[psutil.Process], timeout_s: float) -> None:
    """Send SIGTERM to the processes; kill those that run after `timeout_s` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = [process for process in processes if _runs(process)]
        for process in processes:
            _send(process, number)
        give_up_at_s = time.monotonic() + timeout_s
        while any(map(_runs, processes)) and time.monotonic() < give_up_at_s:
            time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    """Return whether a process runs; one that has ended and is not collected yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    # psutil compares the start time first: a process id that is used again is left alone.
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _runs_already(home: Path, record: UpRecord | None) -> str:
    if record is None:
        return f"{home}: another maitre up starts or runs there; end it with `maitre down`"
    addresses = ", ".join(f"{name} {url}" for name, url in record.addresses.items())
    return (
        f"{home}: maitre up runs there already (process {record.pid}; {addresses}): use it, end it "
        "with `maitre down`, or give another home (MAITRE_HOME) and other ports"
    )
