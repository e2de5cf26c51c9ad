"""What every reporting command shares: a table for people, JSON for scripts."""

import json
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
    """Print one JSON document to standard output."""
    print(json.dumps(document, indent=2, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows of equal keys as a table; what the first column names is never cut."""
    if not rows:
        print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(rows[0]):
        table.add_column(str(column), no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
