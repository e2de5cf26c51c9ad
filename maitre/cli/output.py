"""What every reporting command shares: a table for people, JSON for scripts."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        return plain(value) if isinstance(value, list) else _finite(value)
    return _finite(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    """Return a value as a person reads it: parts of a list or mapping without numpy's types."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(part) for part in value)
    return str(value)


def print_table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows of equal keys as a table; what the first column names is never cut."""
    if not rows:
        print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(rows[0]):
        table.add_column(str(column), no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)
