"""The adapter catalogue: which adapters are to be served, on which base model, how hot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from maitre.placement.catalogue_file import (
    LENGTH_COLUMNS,
    REQUIRED_COLUMNS,
    check_columns,
    read_columns,
)
from maitre.placement.problems import CatalogueError, RowProblems
from maitre.placement.safe_names import EXPECTED, is_safe_name
from maitre.twin import AdapterLoad

__all__ = ["AdapterCatalogue", "CatalogueError"]


@dataclass(frozen=True)
class AdapterCatalogue:
    """Adapters in columns, all of one length.

    `names` and `base_models` are arrays of str; `ranks` LoRA ranks; `rates_rps` mean requests per
    second; `mean_input_tokens` and `mean_output_tokens` are NaN where the catalogue leaves
    them to the base model's profile. `source` names where the rows came from, for messages, and
    `rows` their numbers there, counted from 1; None stands for all rows, in order.
    """

    names: np.ndarray
    base_models: np.ndarray
    ranks: np.ndarray
    rates_rps: np.ndarray
    mean_input_tokens: np.ndarray
    mean_output_tokens: np.ndarray
    source: str = "catalogue"
    rows: np.ndarray | None = None

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        base_models: Collection[str] | None = None,
        max_rank: int | None = None,
        base_model: str | None = None,
    ) -> AdapterCatalogue:
        """Read a CSV or Parquet file with the columns `adapter, base_model, rank, rate_rps`.

        `mean_input_tokens` and `mean_output_tokens` are optional columns. With `base_models` and
        `max_rank`, rows outside them are refused too. With `base_model`, the file may lack that
        column: all adapters are of that model then.

        Raises:
            CatalogueError: no table, a column missing or there twice, rows of too many fields,
                no rows, a duplicate or unsafe name (`is_safe_name`), negative or NaN rate, rank
                that is not a positive whole number, unknown base model, rank above `max_rank`.
                Nothing is returned unless every row is sound.
            FileNotFoundError: there is no such file.
        """
        required = [name for name in REQUIRED_COLUMNS if name != "base_model" or not base_model]
        frame = read_columns(Path(path), required)
        if "base_model" not in frame:
            frame = frame.assign(base_model=base_model)
        return cls.from_frame(frame, source=str(path), base_models=base_models, max_rank=max_rank)

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
        check_columns(source, frame.columns)
        if frame.empty:
            raise CatalogueError(source, ["the catalogue has no rows; give at least one adapter"])
        problems = RowProblems(source, np.arange(1, len(frame) + 1))
        names = _texts(frame, "adapter", problems)
        models = _texts(frame, "base_model", problems)
        ranks = _numbers(frame, "rank")
        rates = _numbers(frame, "rate_rps")
        problems.add(~np.isfinite(ranks) | (ranks < 1) | (ranks % 1 != 0), frame["rank"], "rank",
                     "is not a positive whole number")  # fmt: skip
        problems.add(~np.isfinite(rates), frame["rate_rps"], "rate_rps", "is not a number")
        problems.add(rates < 0, frame["rate_rps"], "rate_rps", "is negative")
        lengths = [_mean_lengths(frame, column, problems) for column in LENGTH_COLUMNS]
        _check_names(names, frame["adapter"], problems)
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
        """Refuse base models, ranks and requests outside of these limits.

        `max_tokens` is what a request may have, input and output together.

        Raises:
            CatalogueError: naming every such row.
        """
        problems = RowProblems(self.source, self.row_numbers)
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

    @property
    def row_numbers(self) -> np.ndarray:
        """The rows' numbers where they came from: the header is not counted, the first is 1."""
        return np.arange(1, len(self) + 1) if self.rows is None else self.rows

    def frame(self) -> pd.DataFrame:
        """Return the catalogue as a frame with the columns of a catalogue file."""
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
        """Return the adapters as loads for the twin, in the catalogue's order."""
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
        """Return some of the adapters, in the given order."""
        return AdapterCatalogue(
            self.names[rows],
            self.base_models[rows],
            self.ranks[rows],
            self.rates_rps[rows],
            self.mean_input_tokens[rows],
            self.mean_output_tokens[rows],
            self.source,
            self.row_numbers[rows],
        )

    def with_rates(self, rates_rps: np.ndarray) -> AdapterCatalogue:
        """Return the same adapters with other rates, in requests per second, one per adapter.

        Raises:
            CatalogueError: a rate is negative or NaN.
        """
        return AdapterCatalogue.from_frame(
            self.frame().assign(rate_rps=np.asarray(rates_rps, dtype=np.float64)),
            source=self.source,
        )


def _texts(frame: pd.DataFrame, column: str, problems: RowProblems) -> np.ndarray:
    values = frame[column]
    texts = values.astype("str").str.strip()
    problems.add((values.isna() | (texts == "")).to_numpy(), values, column, "is empty")
    return texts.to_numpy(dtype=object)


def _check_names(names: np.ndarray, values: pd.Series, problems: RowProblems) -> None:
    given = values.notna().to_numpy() & (names != "")
    unsafe = given & ~np.array([is_safe_name(str(name)) for name in names], dtype=bool)
    problems.add(
        unsafe, values, "adapter",
        f"is not a safe name: expected {EXPECTED}",
    )  # fmt: skip
    duplicated = pd.Series(names).duplicated(keep="first").to_numpy()
    problems.add(given & duplicated, values, "adapter", "is listed more than once")


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    values = frame[column]
    if values.dtype == bool:
        return np.full(len(values), np.nan)
    return np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)


def _mean_lengths(frame: pd.DataFrame, column: str, problems: RowProblems) -> np.ndarray:
    if column not in frame.columns:
        return np.full(len(frame), np.nan)
    numbers = _numbers(frame, column)
    absent = frame[column].isna().to_numpy()
    bad = ~absent & ~(np.isfinite(numbers) & (numbers > 0))
    problems.add(bad, frame[column], column, "is not a positive number")
    return numbers


def _check_models(
    models: np.ndarray, known: Collection[str], values: pd.Series, problems: RowProblems
) -> None:
    unknown = ~np.isin(models.astype(str), sorted(known))
    problems.add(unknown, values, "base_model", f"is unknown; known: {', '.join(sorted(known))}")
