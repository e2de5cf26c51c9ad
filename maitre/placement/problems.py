"""What is wrong with an adapter catalogue, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from maitre.errors import UserError
from maitre.tables import shown

ROWS_SHOWN = 20


class CatalogueError(UserError):
    """A catalogue that cannot be placed: its problem in one line, or their number and the first 20.

    `problems` are those lines, `count` is the number of all problems. `rows` says whether a line
    stands for a row of the catalogue.
    """

    def __init__(
        self, source: str, problems: Sequence[str], count: int | None = None, *, rows: bool = False
    ) -> None:
        self.source = source
        self.problems = list(problems[:ROWS_SHOWN])
        count = self.count = len(problems) if count is None else count
        if rows:
            what = f"{count} {'row is' if count == 1 else 'rows are'} wrong"
        else:
            what = f"{count} problem{'s' if count != 1 else ''}"
        if count == 1:
            super().__init__(f"{source}: {self.problems[0]}")
            return
        head = f"{source}: {what} in the adapter catalogue"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        more = f"\n  ... and {count - ROWS_SHOWN} more" if count > ROWS_SHOWN else ""
        super().__init__(head + lines + more)

    @classmethod
    def of_rows(cls, source: str, complaints: Mapping[int, str], count: int) -> CatalogueError:
        """Return the error for `count` wrong rows; `complaints` has the first 20 by number."""
        lines = [f"row {number}: {complaints[number]}" for number in sorted(complaints)]
        return cls(source, lines, count, rows=True)


class RowProblems:
    """Collects what is wrong with the rows that have these numbers."""

    def __init__(self, source: str, numbers: np.ndarray) -> None:
        self._source = source
        self._numbers = numbers
        self._wrong = np.zeros(len(numbers), dtype=bool)
        self._complaints: dict[int, list[str]] = {}

    def add(self, bad: np.ndarray, values: pd.Series, field: str, complaint: str) -> None:
        """Complain of some rows; `values` are what the field holds in every row."""
        rows = np.flatnonzero(bad)
        self._wrong[rows] = True
        # A million wrong rows are counted, not listed. The first 20 of all wrong rows are among the
        # first 20 of each complaint.
        for row in rows[:ROWS_SHOWN]:
            value = values.iloc[row]
            # As the user wrote it, not as numpy shows it.
            found = shown(value.item() if isinstance(value, np.generic) else value)
            if pd.isna(value):
                found = "(empty)"
            self._complaints.setdefault(int(row), []).append(f"{field} {found} {complaint}")

    def raise_if_any(self) -> None:
        """Raise a `CatalogueError` if there was any complaint."""
        if not self._wrong.any():
            return
        first = np.flatnonzero(self._wrong)[:ROWS_SHOWN].tolist()
        said = {int(self._numbers[row]): "; ".join(self._complaints[row]) for row in first}
        raise CatalogueError.of_rows(self._source, said, int(self._wrong.sum()))
