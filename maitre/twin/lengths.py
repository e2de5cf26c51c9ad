"""Prompt and output lengths of requests, as one joint distribution.

A distribution is a table of quantiles: those of the prompt length and, for each of a number of
equally likely bands of the prompt length, those of the output length. So the two may depend on
each other in any way (in chat traffic long prompts go with short answers), drawing is two
uniform numbers and two look-ups, and no sample of the original data is carried along.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from maitre.twin.errors import TwinInputError, require, shown

_F8 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lengths:
    """A joint distribution of prompt and output tokens.

    `input_quantiles` has shape (q,), at probabilities 0, 1/(q-1), ..., 1; `output_quantiles` has
    shape (bands, r) likewise, band b holding for prompts with probability in [b, b+1)/bands.
    Draws are scaled by `input_scale` / `output_scale`, rounded and kept in 1..max.
    """

    name: str
    input_quantiles: _F8
    output_quantiles: _F8
    max_input_tokens: int
    max_total_tokens: int
    input_scale: float = 1.0
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        for field in ("input_quantiles", "output_quantiles"):
            table = np.asarray(getattr(self, field), np.float64)
            require(
                table.size > 0 and bool(np.isfinite(table).all()),
                f"lengths.{field}: expected finite numbers; got other values",
            )
            require(
                bool((table >= 0).all()) and bool((np.diff(table, axis=-1) >= 0).all()),
                f"lengths.{field}: quantiles must rise and be at least 0",
            )
            object.__setattr__(self, field, table)
        require(self.output_quantiles.ndim == 2, "lengths.output_quantiles: must have two axes")

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the distributions that ship with Maitre."""
        return sorted(_shipped_tables())

    @classmethod
    def named(
        cls,
        name: str,
        mean_input_tokens: float | None = None,
        mean_output_tokens: float | None = None,
    ) -> "Lengths":
        """Return a shipped distribution, scaled to the given means, else to its own default.

        Raises:
            TwinInputError: no such name, or a mean that is not positive.
        """
        require(
            name in _shipped_tables(),
            f"lengths: no distribution {name!r}; expected one of {cls.names()}",
        )
        return _lengths_named(name, mean_input_tokens, mean_output_tokens)

    @classmethod
    def fixed(cls, input_tokens: int, output_tokens: int) -> "Lengths":
        """Return lengths that are equal for all requests."""
        return cls(
            name=f"fixed-{input_tokens}-{output_tokens}",
            input_quantiles=np.array([input_tokens, input_tokens], np.float64),
            output_quantiles=np.array([[output_tokens, output_tokens]], np.float64),
            max_input_tokens=int(input_tokens),
            max_total_tokens=int(input_tokens + output_tokens),
        )

    @classmethod
    def from_frame(cls, frame: Any, bands: int = 16, quantiles: int = 65) -> "Lengths":
        """Return the distribution of a frame with columns `input_tokens`, `output_tokens`.

        Raises:
            TwinInputError: a column is missing, empty, or holds a value below 1 or no number.
        """
        columns = []
        for field in ("input_tokens", "output_tokens"):
            require(field in frame, f"lengths: the frame has no column {field!r}")
            values = np.asarray(frame[field], np.float64)
            require(values.size > 0, "lengths: the frame is empty")
            bad = ~(np.isfinite(values) & (values >= 1))
            require(
                not bad.any(),
                f"lengths.{field}: row {int(np.argmax(bad))} must be a number of at least 1",
            )
            columns.append(values)
        inputs, outputs = columns
        bands = max(1, min(bands, len(inputs) // 50))
        order = np.lexsort((outputs, inputs))
        grid = np.linspace(0, 1, quantiles)
        return cls(
            name="frame",
            input_quantiles=np.quantile(inputs, grid),
            output_quantiles=np.array(
                [np.quantile(outputs[part], grid) for part in np.array_split(order, bands)]
            ),
            max_input_tokens=int(inputs.max()),
            max_total_tokens=int((inputs + outputs).max()),
        )

    def with_means(
        self, mean_input_tokens: float | None, mean_output_tokens: float | None
    ) -> "Lengths":
        """Return the distribution scaled so that draws have these means (None: unchanged)."""
        for field, mean in (
            ("mean_input_tokens", mean_input_tokens),
            ("mean_output_tokens", mean_output_tokens),
        ):
            require(
                mean is None or (bool(np.isfinite(mean)) and mean >= 1),
                f"lengths.{field}: expected a number of at least 1; got {shown(mean)}",
            )
        scaled = self
        for _ in range(6):
            have_input, have_output = scaled.means()
            scaled = Lengths(
                self.name,
                self.input_quantiles,
                self.output_quantiles,
                self.max_input_tokens,
                self.max_total_tokens,
                scaled.input_scale * (mean_input_tokens or have_input) / have_input,
                scaled.output_scale * (mean_output_tokens or have_output) / have_output,
            )
        return scaled

    def means(self) -> tuple[float, float]:
        """Return mean prompt and output tokens, by a fixed fine grid of the two uniforms."""
        return self._means

    @cached_property
    def _means(self) -> tuple[float, float]:
        steps = (np.arange(256) + 0.5) / 256
        first, second = np.meshgrid(steps, steps, indexing="ij")
        inputs, outputs = self._quantiles_at(first.ravel(), second.ravel())
        return float(inputs.mean()), float(outputs.mean())

    def draw(self, rng: np.random.Generator, count: int) -> tuple[_F8, _F8]:
        """Return `count` prompt and output lengths (whole, as floats), a Latin hypercube sample.

        Each draw has the distribution, and draws are in random order; together they fill it evenly,
        so a short run has the mean lengths that were asked for.
        """
        first, second = _stratified_uniforms(rng, count), _stratified_uniforms(rng, count)
        return self._quantiles_at(first, second)

    def _quantiles_at(self, first: _F8, second: _F8) -> tuple[_F8, _F8]:
        inputs = _interpolate(self.input_quantiles[None, :], np.zeros(len(first), np.intp), first)
        bands = len(self.output_quantiles)
        outputs = _interpolate(
            self.output_quantiles, (first * bands).astype(np.intp).clip(0, bands - 1), second
        )
        inputs = np.rint(inputs * self.input_scale).clip(1, self.max_input_tokens)
        outputs = np.rint(outputs * self.output_scale)
        return inputs, np.maximum(np.minimum(outputs, self.max_total_tokens - inputs), 1)


def _stratified_uniforms(rng: np.random.Generator, count: int) -> _F8:
    """Return one uniform number from each of `count` equal parts of [0, 1), in random order."""
    return (rng.permutation(count) + rng.random(count)) / max(count, 1)


def _interpolate(table: _F8, row: NDArray[np.intp], probability: _F8) -> _F8:
    """Interpolate linearly, row by row, in a table of equally spaced quantiles."""
    width = table.shape[1] - 1
    place = probability * width
    left = place.astype(np.intp)
    part = place - left
    start = row * (width + 1) + left
    flat = table.ravel()
    return flat[start] * (1 - part) + flat[np.minimum(start + 1, flat.size - 1)] * part


@lru_cache(maxsize=64)
def _lengths_named(name: str, mean_input: float | None, mean_output: float | None) -> Lengths:
    table = _shipped_tables()[name]
    lengths = Lengths(
        name=name,
        input_quantiles=np.array(table["input_quantiles"], np.float64),
        output_quantiles=np.array(table["output_quantiles"], np.float64),
        max_input_tokens=int(table["max_input_tokens"]),
        max_total_tokens=int(table["max_total_tokens"]),
    )
    return lengths.with_means(
        table.get("mean_input_tokens") if mean_input is None else mean_input,
        table.get("mean_output_tokens") if mean_output is None else mean_output,
    )


@lru_cache(maxsize=1)
def _shipped_tables() -> dict[str, Any]:
    text = resources.files("maitre.twin").joinpath("profiles/lengths.yaml").read_text()
    tables = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(tables, dict):
        raise TwinInputError("lengths: profiles/lengths.yaml is not a mapping")
    return tables
