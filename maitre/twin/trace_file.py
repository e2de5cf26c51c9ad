"""Read a trace of requests from a file, in the formats in which traces are published."""

import bz2
import csv
import gzip
import json
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from pyarrow import parquet

from maitre.errors import reading
from maitre.twin.errors import TwinInputError, require, shown
from maitre.twin.workload import MOST_TOKENS, shift_to_start

# Seconds since 1970 are below this until the year 5138; above it are milliseconds.
MOST_SECONDS = 1e11
ROWS_SHOWN = 3
_OPEN: dict[str, Callable[..., IO[Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


@dataclass(frozen=True)
class TraceFormat:
    """The columns of a published trace.

    Arrivals are dates, or numbers of `arrival_unit_s` seconds. Without a column `adapter` the trace
    does not say which adapter a request is for. With `has_failures`, a request of 0 tokens is one
    that the published service did not answer.
    """

    name: str
    arrival: str
    input_tokens: str
    output_tokens: str
    adapter: str | None = None
    arrival_unit_s: float = 1.0
    has_failures: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that a file of this format must have."""
        named = (self.arrival, self.adapter, self.input_tokens, self.output_tokens)
        return tuple(column for column in named if column is not None)


FORMATS = {
    found.name: found
    for found in (
        TraceFormat(
            "maitre", "arrival_s", "input_tokens", "output_tokens", "adapter", has_failures=False
        ),
        TraceFormat("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        TraceFormat("vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens"),
        TraceFormat("burstgpt", "Timestamp", "Request tokens", "Response tokens", "Model"),
        TraceFormat("mooncake", "timestamp", "input_length", "output_length", arrival_unit_s=1e-3),
    )
}
"""`vidur` is the format in which microsoft/vidur ships the Azure traces."""


@dataclass(frozen=True, eq=False)
class TraceFile:
    """Requests of a file: columns `arrival_s`, `adapter`, `input_tokens`, `output_tokens`.

    `adapter` is missing where the format does not name adapters. `notes` say what was changed or
    left out.
    """

    frame: pd.DataFrame
    format: TraceFormat
    notes: tuple[str, ...] = field(default=())


def read_trace(path: Path, format_name: str | None = None) -> TraceFile:
    """Return the requests of a CSV, Parquet or JSON-lines file, the first arrival at 0.

    `format_name` is one of `FORMATS`; None: recognise it by the columns.

    Raises:
        TwinInputError: no such file or format, not a table, or a row is not usable; the message
            names file, row and column. Rows count from 1, without the header.
    """
    require(
        format_name is None or format_name in FORMATS,
        f"--format {format_name}: expected one of {', '.join(FORMATS)}",
    )
    require(path.is_file(), f"{path}: expected a trace as CSV, Parquet or JSON lines; got no file")
    with reading(path, TwinInputError):
        table = _table(path)
    form = FORMATS[format_name] if format_name else _format_of(path, table)
    missing = [column for column in form.columns if column not in table]
    require(
        not missing,
        f"{path}: a trace of format {form.name} has the columns {_names_text(form.columns)}; "
        f"{_names_text(missing)} missing; there are {_names_text(table)}",
    )
    require(len(table) > 0, f"{path}: the trace has no rows; give at least one request")
    notes: list[str] = []
    tokens = {}
    for name in ("input_tokens", "output_tokens"):
        tokens[name] = _tokens(path, table[getattr(form, name)], 0 if form.has_failures else 1)
    answered = (tokens["input_tokens"] > 0) & (tokens["output_tokens"] > 0)
    arrival_s = _arrivals_s(path, table[form.arrival], form.arrival_unit_s)
    frame = pd.DataFrame({"arrival_s": arrival_s, **tokens})
    if form.adapter is not None:
        named = table[form.adapter]
        adapters = named.astype("str").str.strip()
        unnamed = (named.isna() | (adapters == "")).to_numpy()
        _refuse_rows(path, form.adapter, named, unnamed, "expected the name of an adapter")
        frame.insert(1, "adapter", adapters)
    if not answered.all():
        notes.append(f"{int((~answered).sum())} of {len(frame)} requests have 0 tokens: left out")
        frame = frame[answered].reset_index(drop=True)
        require(len(frame) > 0, f"{path}: every request of the trace has 0 tokens")
    began = frame["arrival_s"].to_numpy()
    shifted = shift_to_start(began)
    if began.min() != shifted.min():
        notes.append(f"arrivals begin at {began.min():.3f} s: shifted to 0")
    return TraceFile(frame.assign(arrival_s=shifted), form, tuple(notes))


def _format_of(path: Path, table: pd.DataFrame) -> TraceFormat:
    for form in FORMATS.values():
        if set(form.columns) <= set(table):
            return form
    known = "; ".join(f"{form.name}: {_names_text(form.columns)}" for form in FORMATS.values())
    raise TwinInputError(
        f"{path}: the columns are those of no known trace: there are {_names_text(table)}; "
        f"expected one of {known}"
    )


def _table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(path).to_pandas(ignore_metadata=True)
    with _OPEN.get(suffix, open)(path, "rt", newline="", encoding="utf-8-sig") as lines:
        inner = path.with_suffix("").suffix.lower() if suffix in _OPEN else suffix
        if inner in (".jsonl", ".ndjson", ".json"):
            return pd.DataFrame(list(_objects(lines)))
        rows = (row for row in csv.reader(lines) if len(row) > 1 or (row and row[0].strip()))
        columns = [column.strip() for column in next(rows, [])]
        twice = {column for column in columns if columns.count(column) > 1}
        require(not twice, f"{path}: the header has {_names_text(sorted(twice))} twice")
        return pd.DataFrame(list(_full_rows(path, columns, rows)), columns=columns, dtype="str")


def _objects(lines: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"line {number}: expected a JSON object; got {line.strip()[:60]!r}")
        yield found


def _full_rows(path: Path, columns: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    for number, row in enumerate(rows, start=1):
        require(
            len(row) == len(columns),
            f"{path}: row {number}: expected {len(columns)} fields; got {len(row)}: "
            f"{','.join(row)[:100]!r}",
        )
        yield row


def _tokens(path: Path, values: pd.Series, least: int) -> np.ndarray:
    numbers = _numbers(values)
    usable = np.isfinite(numbers) & (numbers >= least) & (numbers <= MOST_TOKENS)
    usable &= np.rint(numbers) == numbers
    what = f"expected a whole number of at least {least}"
    _refuse_rows(path, str(values.name), values, ~usable, what)
    return numbers.astype(np.int64)


def _arrivals_s(path: Path, values: pd.Series, unit_s: float) -> np.ndarray:
    """Return numbers in seconds as they are, dates in seconds from the first."""
    numbers = _numbers(values)
    if np.isfinite(numbers).any():
        seconds = numbers * unit_s
        usable = np.isfinite(seconds) & (seconds >= 0) & (seconds < MOST_SECONDS)
        _refuse_rows(path, str(values.name), values, ~usable,
                     "expected seconds from the start or since 1970")  # fmt: skip
        return seconds
    times = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    _refuse_rows(path, str(values.name), values, times.isna().to_numpy(),
                 "expected seconds, or a date and time (ISO 8601)")  # fmt: skip
    return (times - times.min()).dt.total_seconds().to_numpy()


def _numbers(values: pd.Series) -> np.ndarray:
    if values.dtype == bool or pd.api.types.is_datetime64_any_dtype(values):
        return np.full(len(values), np.nan)
    try:
        return np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    except (TypeError, ValueError):
        # Lists or mappings among the values; one at a time they are told apart from numbers.
        return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def _refuse_rows(path: Path, column: str, values: pd.Series, bad: np.ndarray, what: str) -> None:
    if not bad.any():
        return
    rows = np.flatnonzero(bad)
    first = "; ".join(f"row {row + 1}: {shown(values.iloc[row])}" for row in rows[:ROWS_SHOWN])
    more = f"; and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
    raise TwinInputError(f"{path}: {column}: {what}; got {first}{more}")


def _names_text(columns: Any) -> str:
    return ", ".join(repr(str(column)) for column in columns)
