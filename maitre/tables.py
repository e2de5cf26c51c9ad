"""Read the tables that people hand over, CSV or Parquet, and refuse what would be read wrong.

Nothing vanishes silently: a row with a field too many or too few, a value that is not a finite
number, a quote that is never closed, text in another encoding: each is an error that names the
file, the line and the column.
"""

import bz2
import csv
import gzip
import lzma
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import numpy as np

from maitre.errors import UserError, reading

LARGEST = 1e15
"""The largest number that a table may hold: every whole number below is exact in a float."""
LARGEST_SECONDS = 1e11
"""The largest time: 3,000 years, so that milliseconds since 1970 are found out as such."""

_OPEN: dict[str, Callable[..., IO[Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SHOWN = 60
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """The columns that a reader asked for, as they stand in the file.

    `lines` are the line numbers of a CSV file, or the row numbers of a Parquet file, from 1.
    """

    path: str
    lines: Sequence[int]
    cells: Mapping[str, Sequence[Any]]
    headers: Mapping[str, str]
    error: type[UserError] = UserError

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, column: str) -> bool:
        return column in self.cells

    def problem(self, row: int, column: str, expected: str) -> UserError:
        """Return the error that the value of `column` in `row` (from 0) is not as `expected`."""
        where = f"{self.path}:{self.lines[row]}: {self.headers.get(column, column)}"
        return self.error(f"{where}: {expected}; got {shown(self.cells[column][row])}")

    def texts(self, column: str) -> list[str]:
        """Return a column of names; raise where a cell is empty or holds a NUL."""
        values = ["" if value is None else str(value).strip() for value in self.cells[column]]
        for row, value in enumerate(values):
            if not value or "\0" in value:
                raise self.problem(row, column, "must be a name")
        return values

    def numbers(
        self,
        column: str,
        *,
        at_least: float = -LARGEST,
        above: float = -math.inf,
        at_most: float = LARGEST,
        whole: bool = False,
        empty: float | None = None,
    ) -> np.ndarray:
        """Return a column of finite numbers; an `empty` cell stands for that value, if given."""
        found = [as_number(cell) for cell in self.cells[column]]
        left_empty = np.asarray(
            [empty is not None and self._is_empty(column, row) for row in range(len(self))]
        )
        values = np.asarray([math.nan if number is None else number for number in found])
        not_numbers = np.asarray([number is None for number in found])
        for wrong, expected in (
            (not_numbers, "must be a number"),
            (~np.isfinite(values), "must be a finite number"),
            (values <= above, f"must be above {above:g}"),
            (values < at_least, f"must be at least {at_least:g}"),
            (values > at_most, f"must be at most {at_most:g}"),
            ((values != np.floor(values)) & whole, "must be a whole number"),
        ):
            if (wrong := wrong & ~left_empty).any():
                raise self.problem(int(np.argmax(wrong)), column, expected)
        return np.where(left_empty, math.nan if empty is None else empty, values)

    def seconds(self, column: str) -> np.ndarray:
        """Return a column of times in seconds: numbers, or dates, which count from 1970 in UTC."""
        cells = self.cells[column]
        moments = [_moment(cell) for cell in cells]
        dated = sum(moment is not None for moment in moments)
        if dated == len(moments):
            return np.asarray(moments, dtype=float)
        if dated:
            raise self.problem(moments.index(None), column, "must be a date, as in other rows")
        for row, cell in enumerate(cells):
            if as_number(cell) is None:
                expected = "must be seconds or a date such as 2023-11-16 18:15:46"
                raise self.problem(row, column, expected)
        return self.numbers(column, at_most=LARGEST_SECONDS)

    def _is_empty(self, column: str, row: int) -> bool:
        cell = self.cells[column][row]
        return cell is None or (isinstance(cell, str) and not cell.strip())


def read_table(
    path: str | Path,
    required: Iterable[str],
    optional: Iterable[str] = (),
    *,
    names: Mapping[str, str] | None = None,
    error: type[UserError] = UserError,
) -> Table:
    """Read these columns of a CSV or Parquet file; `names` says what a column is called there.

    Further columns are left out. Raise `error` for a file that cannot be read, a column that is
    missing or there twice, a row that has more or fewer fields than the header, and no rows.
    """
    names = names or {}
    required, wanted = list(required), [*required, *optional]
    headers = {column: names.get(column, column) for column in wanted}
    with reading(path, error):
        if Path(path).suffix.lower() == ".parquet":
            table = _read_parquet(path, headers, required, error)
        else:
            table = _read_csv(path, headers, required, error)
    if not len(table):
        raise error(f"{path}: holds no rows: expected at least one below the header")
    return table


def csv_rows(
    path: str | Path, error: type[UserError] = UserError
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every row of a CSV file that is not blank.

    The file is UTF-8, plain or compressed (.gz, .bz2, .xz). The number is that of the row's last
    line.
    """
    path = Path(path)
    opener = _OPEN.get(path.suffix.lower(), open)
    line = 0
    try:
        with reading(path, error):
            with opener(path, "rb") as start:
                if start.read(2) in _WIDE_MARKS:
                    raise error(f"{path}: is UTF-16 text: expected UTF-8; save it as UTF-8")
            with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
                rows = csv.reader(file, strict=True)
                for row in rows:
                    line = rows.line_num
                    if len(row) > 1 or (row and row[0].strip()):
                        yield line, row
    except UserError as failed:
        cause = failed.__cause__
        if isinstance(cause, csv.Error):
            raise error(f"{path}:{line + 1}: not CSV: {_csv_reason(cause)}") from cause
        if isinstance(cause, UnicodeDecodeError):
            number = _line_of_bad_text(path, opener)
            raise error(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from cause
        raise


def check_header(
    path: str | Path, columns: Sequence[str], required: Iterable[str], error: type[UserError]
) -> None:
    """Raise `error` where the header lacks a required column or has one twice."""
    if len(columns) == 1:
        for character, name in _SEPARATORS.items():
            if character in columns[0]:
                raise error(f"{path}:1: columns are separated by {name}: expected commas")
    there = ", ".join(shown(column) for column in columns[:20])
    for column in required:
        if column not in columns:
            raise error(f"{path}:1: column {column!r} is missing; the file has {there}")
    for column, count in Counter(columns).items():
        if count > 1 and column:
            raise error(f"{path}:1: column {column!r} stands {count} times in the header")


def as_number(cell: Any) -> float | None:
    """Return a cell as a float, `None` where it is not a number as people write one."""
    if isinstance(cell, str):
        text = cell.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        return float(text) if text.lower() in _NOT_FINITE else None
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | float | Decimal | np.number):
        return None
    try:
        return float(cell)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """Return a value as an error message shows it: quoted if it is text, and not too long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


_NOT_FINITE = frozenset(
    sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")
)


def _moment(cell: Any) -> float | None:
    """Return a date as seconds since 1970, `None` where the cell holds no date."""
    if isinstance(cell, str):
        text = cell.strip()
        # `fromisoformat` takes 20231116 for a date; a column of times more likely counts.
        if "-" not in text[1:] or _NUMBER.fullmatch(text):
            return None
        try:
            cell = datetime.fromisoformat(text.removesuffix("UTC").strip())
        except ValueError:
            return None
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime(cell.year, cell.month, cell.day)
    if not isinstance(cell, datetime):
        return None
    zoned = cell if cell.tzinfo else cell.replace(tzinfo=UTC)
    return (zoned - _EPOCH).total_seconds()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_csv(
    path: str | Path, headers: Mapping[str, str], required: list[str], error: type[UserError]
) -> Table:
    rows = csv_rows(path, error)
    _, first = next(rows, (0, None))
    if first is None:
        raise error(f"{path}: is empty: expected a header and at least one row")
    columns = [column.strip() for column in first]
    check_header(path, columns, [headers[column] for column in required], error)
    found = {column: columns.index(name) for column, name in headers.items() if name in columns}
    lines: list[int] = []
    cells: dict[str, list[str]] = {column: [] for column in found}
    for line, row in rows:
        if len(row) != len(columns):
            raise error(
                f"{path}:{line}: has {len(row)} fields: expected {len(columns)}, as in the header"
            )
        lines.append(line)
        for column, index in found.items():
            cells[column].append(row[index])
    return Table(str(path), lines, cells, headers, error)


def _read_parquet(
    path: str | Path, headers: Mapping[str, str], required: list[str], error: type[UserError]
) -> Table:
    from pyarrow import parquet

    columns = parquet.read_schema(path).names
    check_header(path, columns, [headers[column] for column in required], error)
    found = {column: name for column, name in headers.items() if name in columns}
    table = parquet.read_table(path, columns=list(dict.fromkeys(found.values())))
    cells = {column: table.column(name).to_pylist() for column, name in found.items()}
    return Table(str(path), range(1, table.num_rows + 1), cells, headers, error)


def _csv_reason(cause: csv.Error) -> str:
    text = str(cause)
    if "field larger" in text:
        return f"a field has more than {csv.field_size_limit():,} characters"
    if "unexpected end of data" in text:
        return "a quote is opened and never closed"
    return text


def _line_of_bad_text(path: Path, opener: Callable[..., IO[Any]]) -> int:
    """Return the number of the first line that is not UTF-8."""
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
