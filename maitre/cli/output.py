"""What every reporting command shares: a table for people, JSON for scripts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(document: Any) -> None:
    """Print one JSON document to standard output."""
    print(json.dumps(document, indent=2, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows of equal keys as a table."""
    if not rows:
        print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(str(column))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
