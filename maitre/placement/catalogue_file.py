"""Read the columns of a catalogue file, CSV or Parquet; refuse any other file."""

from __future__ import annotations

import csv
import lzma
import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd
import pyarrow.parquet

from maitre.errors import UserError
from maitre.placement.problems import ROWS_SHOWN, CatalogueError
from maitre.tables import csv_rows

REQUIRED_COLUMNS = ("adapter", "base_model", "rank", "rate_rps")
LENGTH_COLUMNS = ("mean_input_tokens", "mean_output_tokens")
# What a damaged file makes pandas, pyarrow and the readers of archives raise.
_DAMAGED = (
    *(csv.Error, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError),
    pyarrow.ArrowException,
)
_KNOWN = {*REQUIRED_COLUMNS, *LENGTH_COLUMNS}
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_columns(path: Path, required: Collection[str] = REQUIRED_COLUMNS) -> pd.DataFrame:
    """Return the columns of a catalogue file that a catalogue knows, unchanged.

    Raises:
        CatalogueError: no table, a column missing or there twice, rows of more fields than columns.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise CatalogueError(str(path), ["it is a folder; give a CSV or Parquet file"])
    if not path.is_file():
        raise UserError(f"no adapter catalogue at {path}")
    try:
        if path.suffix.lower() == ".parquet":
            return _of_parquet(path, required)
        return _of_csv(path, required)
    except UserError:
        raise
    except (OSError, *_DAMAGED) as error:
        reason = " ".join(str(error).split())[:200]
        raise CatalogueError(str(path), [f"cannot be read as a table: {reason}"]) from error


def check_columns(
    source: str, columns: Iterable[object], required: Collection[str] = REQUIRED_COLUMNS
) -> None:
    """Refuse a header that lacks a column or has one twice.

    Raises:
        CatalogueError: naming each, and the columns that there are.
    """
    found = [str(column) for column in columns]
    there = ", ".join(map(repr, found))
    counts = Counter(found)
    problems = [
        f"column {column!r} is missing; there are {there}"
        for column in required
        if column not in counts
    ]
    problems += [
        f"column {column!r} is there {count} times"
        for column, count in counts.items()
        if column in _KNOWN and count > 1
    ]
    if problems:
        raise CatalogueError(source, problems)


def _of_parquet(path: Path, required: Collection[str]) -> pd.DataFrame:
    columns = pyarrow.parquet.read_schema(path).names
    check_columns(str(path), columns, required)
    known = [column for column in columns if column in _KNOWN]
    # Without the metadata that pandas writes: it may be damaged, and says nothing of these columns.
    table = pyarrow.parquet.read_table(path, columns=known, use_pandas_metadata=False)
    return table.to_pandas(ignore_metadata=True)


def _of_csv(path: Path, required: Collection[str]) -> pd.DataFrame:
    _check_fields(path, required)
    return pd.read_csv(
        path,
        usecols=lambda column: column.strip() in _KNOWN,
        index_col=False,
        dtype={"adapter": "str", "base_model": "str"},
        # An adapter may be called "NA"; only an empty cell is an absent one.
        keep_default_na=False,
        na_values=[""],
    ).rename(columns=str.strip)


def _check_fields(path: Path, required: Collection[str]) -> None:
    """Refuse a header without the columns, and rows longer than it: pandas would shift or cut them.

    Raises:
        CatalogueError: naming the columns, or the rows.
    """
    # Only the rows that pandas counts: those that are not blank.
    rows = csv_rows(path)
    _, header = next(rows, (0, None))
    if header is None:
        raise CatalogueError(str(path), ["the file is empty; give at least one adapter"])
    columns = [column.strip() for column in header]
    _check_separator(path, columns)
    check_columns(str(path), columns, required)
    complaints: dict[int, str] = {}
    count = 0
    for number, (_, row) in enumerate(rows, start=1):
        if len(row) > len(columns):
            count += 1
            if count <= ROWS_SHOWN:
                fields = f"{len(row)} fields for {len(columns)} columns"
                complaints[number] = f"has {fields}: {','.join(row)[:100]}"
    if count:
        raise CatalogueError.of_rows(str(path), complaints, count)


def _check_separator(path: Path, columns: list[str]) -> None:
    for character, name in _OTHER_SEPARATORS.items():
        if len(columns) == 1 and character in columns[0]:
            raise CatalogueError(
                str(path),
                [f"the columns are separated by {name}, not by commas: {columns[0][:100]!r}"],
            )
