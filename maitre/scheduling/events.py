"""`events.csv`: what happened, in time order, to 1 ms; anyone can replay it."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from maitre.files import replacing_file
from maitre.scheduling.errors import SchedulingError
from maitre.tables import LARGEST_SECONDS, csv_rows, shown

COLUMNS = ("time_s", "event", "worker", "job_id", "base_model")
KINDS = frozenset(
    (
        "worker_start",
        "worker_load",
        "worker_ready",
        "worker_stop",
        "lookup_start",
        "lookup_end",
        "job_start",
        "job_resize",
        "job_preempt",
        "job_finish",
        "job_reject",
    )
)


class Event(NamedTuple):
    """One row. `worker` holds worker ids joined by `;`; empty where the event has none."""

    time_ms: int
    kind: str
    worker: str = ""
    job_id: str = ""
    base_model: str = ""


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Write `events.csv`, whole or not at all."""
    with (
        replacing_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((seconds_text(event[0]), *event[1:]) for event in events)


def read_events(path: Path) -> Iterator[Event]:
    """Read `events.csv`. Raises `SchedulingError` naming the line of a malformed row."""
    rows = csv_rows(path, SchedulingError)
    _, header = next(rows, (0, []))
    if tuple(header) != COLUMNS:
        raise SchedulingError(f"{path}: expected the columns {','.join(COLUMNS)}")
    for line, row in rows:
        yield _event(row, f"{path}:{line}")


def _event(row: list[str], where: str) -> Event:
    if len(row) != len(COLUMNS):
        raise SchedulingError(f"{where}: expected {len(COLUMNS)} fields, found {len(row)}")
    try:
        time_ms = round(float(row[0]) * 1000)
        if not 0 <= time_ms <= LARGEST_SECONDS * 1000:
            raise ValueError
    except (ValueError, OverflowError):
        raise SchedulingError(f"{where}: time_s: {shown(row[0])} is not a time") from None
    if row[1] not in KINDS:
        raise SchedulingError(f"{where}: event: {shown(row[1])} is unknown")
    return Event(time_ms, row[1], row[2], row[3], row[4])


def seconds_text(time_ms: int) -> str:
    """Return milliseconds as seconds with three decimals, exactly."""
    return f"{time_ms // 1000}.{time_ms % 1000:03d}"
