"""What every reporting command shares: a table for people, JSON for scripts."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from maitre.errors import UserError


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Refuse a target that cannot be written, before the work and not after it.

    Raises:
        UserError: its folder does not exist or may not be written to, or it is a folder where a
            file is to be written, or the other way round.
    """
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}")
    if path.exists() and path.is_dir() != folder:
        raise UserError(f"{path} is {'no folder' if folder else 'a folder'}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f"{path}: its folder may not be written to")


def print_json(document: Any) -> None:
    """Print one JSON document to standard output; NaN and infinity are null."""
    print(json.dumps(plain(document), indent=2, default=str, allow_nan=False))


def plain(value: Any) -> Any:
    """Return a value without numpy's types, as JSON can hold it: NaN and infinity are None."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        value = value.tolist()
        return plain(value) if isinstance(value, list) else _finite_or_none(value)
    return _finite_or_none(value)


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    """Return a value as a person reads it: parts of a list or mapping without numpy's types."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(part) for part in value)
    return str(value)


SHORTEST_HEADER = 5


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or hasattr(value, "dtype")


def print_table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows of equal keys as a table; the first column and numbers are never cut.

    In a narrow terminal headers and texts go over several lines.
    """
    if not rows:
        print(f"{title}: none")
        return
    console = Console()
    widths = {
        column: max(len(str(column)), *(len(_cell(row[column])) for row in rows))
        for column in rows[0]
    }
    is_narrow = sum(widths.values()) + 3 * len(widths) + 1 > console.width
    # Lines between the columns take what numbers need.
    table = (
        Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        if is_narrow
        else Table(title=title, title_justify="left")
    )
    for number, column in enumerate(rows[0]):
        numbers = [_cell(row[column]) for row in rows if _is_number(row[column])]
        header = str(column)
        if numbers and is_narrow:
            width = max(SHORTEST_HEADER, *map(len, numbers))
            header = "\n".join(header[i : i + width] for i in range(0, len(header), width))
        table.add_column(header, no_wrap=number == 0 or bool(numbers), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
