"""Whether a process of this machine is still the one that it was: pids are given out again."""

import os
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")
# Counted from the state on, which is field 3 of proc(5): virtual memory, and the start in ticks.
_MEMORY = 20
_STARTED = 19


def identity_of(pid: int) -> str | None:
    """What no other process has, after a restart of the machine either.

    `None` when there is no such process, or no `/proc` to ask.
    """
    fields = _fields(pid)
    return f"{_boot_id(_PROC)}/{fields[_STARTED]}" if fields else None


def is_alive(pid: int, was: str | None) -> bool:
    """Whether the process whose identity was that is there, no zombie, nor on its way out.

    Of a large process that was killed the kernel takes many seconds to free the memory; it then
    runs still, but without any. Without `/proc` any process of this user counts that has the pid.
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
    """This boot of the machine."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
