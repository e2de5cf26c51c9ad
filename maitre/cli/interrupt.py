"""Ctrl-C as a wish: the work ends at its next step and reports what it has come to."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
"""What a shell expects of a program that an interrupt has ended."""

# A signal belongs to the whole process, and so does what it has left behind.
_interrupts: list[int] = []


def was_interrupted() -> bool:
    """Return whether Ctrl-C was pressed since `stops_at_next_step` was entered."""
    return bool(_interrupts)


@contextmanager
def stops_at_next_step() -> Iterator[None]:
    """Record the first Ctrl-C inside of the block; let the second one interrupt as usual."""
    _interrupts.clear()
    before = signal.signal(signal.SIGINT, _note_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _note_interrupt(number: int, _frame: FrameType | None) -> None:
    if _interrupts:
        raise KeyboardInterrupt
    _interrupts.append(number)
    print("maitre: stopping at the next step; Ctrl-C again stops at once", file=sys.stderr)
