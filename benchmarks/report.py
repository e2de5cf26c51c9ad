"""What every benchmark hands back: figures beside their reach, as one table and one JSON file."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maitre.home_files import HomeFiles

COLUMNS = ("name", "figure", "unit", "reach", "met")


@dataclass(frozen=True)
class Reach:
    """The range that a figure is to lie in; both ends belong to it."""

    at_least: float = float("-inf")
    at_most: float = float("inf")

    def holds(self, value: float) -> bool:
        """Return whether `value` lies in the range."""
        return self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        if self.at_least == self.at_most:
            return f"{self.at_least:g}"
        ends = ((">=", self.at_least), ("<=", self.at_most))
        return " and ".join(f"{sign} {end:g}" for sign, end in ends if abs(end) != float("inf"))


@dataclass(frozen=True)
class Figure:
    """One measured figure. A text has no reach."""

    name: str
    value: float | str
    unit: str = ""
    reach: Reach | None = None

    @property
    def met(self) -> bool | None:
        """Whether the figure lies in its reach; `None` where it has none."""
        if self.reach is None or isinstance(self.value, str):
            return None
        return self.reach.holds(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the JSON file."""
        reach = None if self.reach is None else str(self.reach)
        cells = (self.name, self.value, self.unit, reach, self.met)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class Report:
    """What a benchmark measured: the figures of the table, and details for the file only."""

    figures: Sequence[Figure]
    details: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        rows = [COLUMNS, *(_cells(figure) for figure in self.figures)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = [
            f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
            for row in rows
        ]
        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        return "\n".join([lines[0], rule, *lines[1:]])

    def write(self, benchmark: str, target: Path) -> Path:
        """Write the JSON file; in a folder its name is that of the benchmark. Return its path."""
        file = target if target.suffix == ".json" else target / f"{benchmark}.json"
        rows = [figure.to_dict() for figure in self.figures]
        document = {"benchmark": benchmark, "figures": rows, "details": dict(self.details)}
        text = json.dumps(document, indent=2, default=_plain) + "\n"
        HomeFiles(str(file.parent)).write_bytes(file.name, text.encode())
        return file


def progress(line: str) -> None:
    """Print a line for the person who waits; stdout holds the table alone."""
    print(line, file=sys.stderr, flush=True)


def _cells(figure: Figure) -> tuple[str, ...]:
    value = figure.value if isinstance(figure.value, str) else _number(figure.value)
    met = {None: "", True: "yes", False: "no"}[figure.met]
    reach = "" if figure.reach is None else str(figure.reach)
    return figure.name, value, figure.unit, reach, met


def _number(value: float) -> str:
    """Return every digit of a whole number, else four significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _plain(value: Any) -> Any:
    """Return what `json` can write of a numpy value; of anything else its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
