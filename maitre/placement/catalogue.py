"""The adapter catalogue: which adapters are to be served, on which base model, how hot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from maitre.twin import AdapterLoad

REQUIRED_COLUMNS = ("adapter", "base_model", "rank", "rate_rps")
LENGTH_COLUMNS = ("mean_input_tokens", "mean_output_tokens")
ROWS_SHOWN = 20


class CatalogueError(ValueError):
    """A catalogue that cannot be placed: how many rows offend, the first 20 of them spelled out.

    `problems` are those lines, `count` the number of all.
    """

    def __init__(self, source: str, problems: list[str], count: int | None = None) -> None:
        self.source = source
        self.problems = problems[:ROWS_SHOWN]
        count = self.count = len(problems) if count is None else count
        head = f"{source}: {count} problem{'s' if count != 1 else ''} in the adapter catalogue"
        shown = "".join(f"\n  {problem}" for problem in problems[:ROWS_SHOWN])
        more = f"\n  ... and {count - ROWS_SHOWN} more" if count > ROWS_SHOWN else ""
        super().__init__(head + shown + more)


@dataclass(frozen=True)
class AdapterCatalogue:
    """Adapters in columns, all of one length.

    `names` and `base_models` are arrays of str; `ranks` LoRA ranks; `rates_rps` mean requests per
    second; `mean_input_tokens` and `mean_output_tokens` are NaN where the catalogue leaves
    them to the base model's profile. `source` names where the rows came from, for messages.
    """

    names: np.ndarray
    base_models: np.ndarray
    ranks: np.ndarray
    rates_rps: np.ndarray
    mean_input_tokens: np.ndarray
    mean_output_tokens: np.ndarray
    source: str = "catalogue"

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        base_models: Collection[str] | None = None,
        max_rank: int | None = None,
    ) -> AdapterCatalogue:
        """Read a CSV or Parquet file with the columns `adapter, base_model, rank, rate_rps`.

        `mean_input_tokens` and `mean_output_tokens` are optional columns. With `base_models` and
        `max_rank`, rows outside them are refused too.

        Raises:
            CatalogueError: missing column, empty file, duplicate name, negative or NaN rate, rank
                that is no positive whole number, unknown base model, rank above `max_rank`.
                Nothing is returned unless every row is sound.
            FileNotFoundError: there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no adapter catalogue at {path}")
        return cls.from_frame(
            _read_columns(path), source=str(path), base_models=base_models, max_rank=max_rank
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        source: str = "catalogue",
        base_models: Collection[str] | None = None,
        max_rank: int | None = None,
    ) -> AdapterCatalogue:
        """Check a frame with the columns of a catalogue file and take it over.

        Raises:
            CatalogueError: as `read`.
        """
        missing = [column for column in REQUIRED_COLUMNS if column not in frame.columns]
        if missing:
            raise CatalogueError(
                source,
                [f"column {c!r} is missing; there are {', '.join(frame.columns)}" for c in missing],
            )
        if frame.empty:
            raise CatalogueError(source, ["the catalogue has no rows; give at least one adapter"])
        problems = _Problems(source, len(frame))
        names = _texts(frame, "adapter", problems)
        models = _texts(frame, "base_model", problems)
        ranks = _numbers(frame, "rank")
        rates = _numbers(frame, "rate_rps")
        problems.add(~np.isfinite(ranks) | (ranks < 1) | (ranks % 1 != 0), frame["rank"], "rank",
                     "is no positive whole number")  # fmt: skip
        problems.add(~np.isfinite(rates), frame["rate_rps"], "rate_rps", "is no number")
        problems.add(rates < 0, frame["rate_rps"], "rate_rps", "is negative")
        lengths = [_mean_lengths(frame, column, problems) for column in LENGTH_COLUMNS]
        duplicated = (
            frame["adapter"].duplicated(keep="first").to_numpy()
            & frame["adapter"].notna().to_numpy()
        )
        problems.add(duplicated, frame["adapter"], "adapter", "is listed more than once")
        if base_models is not None:
            _check_models(models, base_models, frame["base_model"], problems)
        if max_rank is not None:
            problems.add(
                ranks > max_rank, frame["rank"], "rank", f"is above {max_rank}, the largest served"
            )
        problems.raise_if_any()
        inputs, outputs = lengths
        return cls(names, models, ranks.astype(np.int64), rates, inputs, outputs, source)

    def check(
        self, *, base_models: Collection[str], max_rank: int, max_tokens: int | None = None
    ) -> None:
        """Refuse base models, ranks and requests that no server of ours can hold.

        `max_tokens` is what a request may have, input and output together.

        Raises:
            CatalogueError: naming every such row.
        """
        problems = _Problems(self.source, len(self))
        _check_models(self.base_models, base_models, pd.Series(self.base_models), problems)
        problems.add(
            self.ranks > max_rank, pd.Series(self.ranks), "rank",
            f"is above {max_rank}, the largest the profile covers",
        )  # fmt: skip
        if max_tokens is not None:
            tokens = np.nan_to_num(self.mean_input_tokens) + np.nan_to_num(self.mean_output_tokens)
            problems.add(
                tokens > max_tokens, pd.Series(tokens), "tokens of a mean request",
                f"are above {max_tokens}: it fits no server even alone",
            )  # fmt: skip
        problems.raise_if_any()

    def __len__(self) -> int:
        return len(self.names)

    def frame(self) -> pd.DataFrame:
        """The catalogue as a frame with the columns of a catalogue file."""
        return pd.DataFrame(
            {
                "adapter": self.names,
                "base_model": self.base_models,
                "rank": self.ranks,
                "rate_rps": self.rates_rps,
                "mean_input_tokens": self.mean_input_tokens,
                "mean_output_tokens": self.mean_output_tokens,
            }
        )

    def loads(self) -> list[AdapterLoad]:
        """The adapters as the twin takes them, in the catalogue's order."""
        rows = zip(
            self.names, self.ranks, self.rates_rps, self.mean_input_tokens,
            self.mean_output_tokens, strict=True,
        )  # fmt: skip
        return [
            AdapterLoad(
                str(name),
                int(rank),
                float(rate),
                float(inputs) if np.isfinite(inputs) else None,
                float(outputs) if np.isfinite(outputs) else None,
            )
            for name, rank, rate, inputs, outputs in rows
        ]

    def take(self, rows: np.ndarray) -> AdapterCatalogue:
        """Some of the adapters, in the order given."""
        return AdapterCatalogue(
            self.names[rows],
            self.base_models[rows],
            self.ranks[rows],
            self.rates_rps[rows],
            self.mean_input_tokens[rows],
            self.mean_output_tokens[rows],
            self.source,
        )

    def with_rates(self, rates_rps: np.ndarray) -> AdapterCatalogue:
        """The same adapters under other request rates (requests per second, one per adapter).

        Raises:
            CatalogueError: a rate is negative or NaN.
        """
        return AdapterCatalogue.from_frame(
            self.frame().assign(rate_rps=np.asarray(rates_rps, dtype=np.float64)),
            source=self.source,
        )


class _Problems:
    """Collects offending rows; rows are counted from 1 and the header line is not counted."""

    def __init__(self, source: str, rows: int) -> None:
        self._source = source
        self._found: list[tuple[int, str]] = []
        self._count = 0
        self._rows = rows

    def add(self, bad: np.ndarray, values: pd.Series, field: str, complaint: str) -> None:
        rows = np.flatnonzero(bad)
        self._count += len(rows)
        # A million bad rows are counted, not spelled out.
        for row in rows[:ROWS_SHOWN]:
            value = values.iloc[row]
            # As the user wrote it, not as numpy shows it.
            shown = repr(value.item() if isinstance(value, np.generic) else value)
            self._found.append((int(row), f"row {row + 1}: {field} {shown} {complaint}"))

    def raise_if_any(self) -> None:
        if self._found:
            texts = [text for _, text in sorted(self._found)]
            raise CatalogueError(self._source, texts, self._count)


def _read_columns(path: Path) -> pd.DataFrame:
    known = {*REQUIRED_COLUMNS, *LENGTH_COLUMNS}
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            return frame[[column for column in frame.columns if column in known]]
        return pd.read_csv(
            path,
            usecols=lambda column: column.strip() in known,
            dtype={"adapter": "str", "base_model": "str"},
            # An adapter may be called "NA"; only an empty cell is an absent one.
            keep_default_na=False,
            na_values=[""],
        ).rename(columns=str.strip)
    except pd.errors.EmptyDataError:
        raise CatalogueError(str(path), ["the file is empty; give at least one adapter"]) from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise CatalogueError(str(path), [f"cannot be read as a table: {error}"]) from error


def _texts(frame: pd.DataFrame, column: str, problems: _Problems) -> np.ndarray:
    values = frame[column]
    texts = values.astype("str").str.strip()
    problems.add((values.isna() | (texts == "")).to_numpy(), values, column, "is empty")
    return texts.to_numpy(dtype=object)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    values = frame[column]
    if values.dtype == bool:
        return np.full(len(values), np.nan)
    return np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)


def _mean_lengths(frame: pd.DataFrame, column: str, problems: _Problems) -> np.ndarray:
    if column not in frame.columns:
        return np.full(len(frame), np.nan)
    numbers = _numbers(frame, column)
    absent = frame[column].isna().to_numpy()
    bad = ~absent & ~(np.isfinite(numbers) & (numbers > 0))
    problems.add(bad, frame[column], column, "is no positive number")
    return numbers


def _check_models(
    models: np.ndarray, known: Collection[str], values: pd.Series, problems: _Problems
) -> None:
    unknown = ~np.isin(models.astype(str), sorted(known))
    problems.add(unknown, values, "base_model", f"is unknown; known: {', '.join(sorted(known))}")
