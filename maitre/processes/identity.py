"""The identity of a process of this machine: the kernel reuses process ids."""

import os
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")
# Fields of proc(5), counted from the state (field 3): virtual memory, and the start in ticks.
_MEMORY = 20
_STARTED = 19


def identity_of(pid: int) -> str | None:
    """Return a text that no other process has, not after a restart of the machine either.

    Returns `None` when there is no such process, or no `/proc`.
    """
    fields = _fields(pid)
    return f"{_boot_id(_PROC)}/{fields[_STARTED]}" if fields else None


def is_alive(pid: int, was: str | None) -> bool:
    """Return whether the process with that identity runs.

    A zombie does not run, nor does a killed process whose memory the kernel has freed: the kernel
    may take many seconds to remove a large process. Without `/proc`, any process of this user with
    that pid counts.
    """
    if not _PROC.is_dir():
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    fields = _fields(pid)
    if not fields or fields[0] in ("Z", "X") or int(fields[_MEMORY]) == 0:
        return False
    return f"{_boot_id(_PROC)}/{fields[_STARTED]}" == was


def _fields(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return []


@lru_cache(maxsize=1)
def _boot_id(proc: Path) -> str:
    """Return the id of this boot of the machine."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
