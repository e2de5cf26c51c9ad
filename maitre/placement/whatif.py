"""What-if adapters: `50:rank=32,rate=0.1` is fifty adapters more of rank 32 and 0.1 requests/s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from maitre.errors import UserError
from maitre.placement.catalogue import AdapterCatalogue

_FORM = "COUNT:rank=R,rate=RPS[,input=TOKENS,output=TOKENS]"
_FIELDS = {"rank": int, "rate": float, "input": float, "output": float}


class AdditionError(UserError):
    """A what-if that cannot be understood."""


@dataclass(frozen=True)
class Addition:
    """`count` adapters alike: their rank, rate and mean lengths (NaN: the profile's)."""

    count: int
    rank: int
    rate_rps: float
    mean_input_tokens: float = float("nan")
    mean_output_tokens: float = float("nan")

    @classmethod
    def parse(cls, text: str) -> Addition:
        """Read `COUNT:rank=R,rate=RPS[,input=TOKENS,output=TOKENS]`.

        Raises:
            AdditionError: with the form expected.
        """
        count, _, rest = text.partition(":")
        try:
            given: dict[str, float] = {}
            for entry in rest.split(","):
                name, _, value = entry.partition("=")
                given[name.strip()] = _FIELDS[name.strip()](value)
            adapters = int(count)
            rank, rate = int(given.pop("rank")), given.pop("rate")
        except (KeyError, ValueError) as error:
            raise AdditionError(f"{text!r} is not of the form {_FORM}") from error
        if adapters < 1 or rank < 1 or not rate >= 0 or not np.isfinite(rate):
            raise AdditionError(
                f"{text!r}: count and rank must be at least 1, the rate a number of at least 0"
            )
        if any(not (np.isfinite(v) and v > 0) for v in given.values()):
            raise AdditionError(f"{text!r}: lengths must be positive numbers")
        return cls(adapters, rank, rate, given.get("input", np.nan), given.get("output", np.nan))


def with_added(
    catalogue: AdapterCatalogue, base_model: str, additions: Sequence[Addition]
) -> AdapterCatalogue:
    """Return the catalogue with those adapters at its end, named `added-0000` and so on."""
    if not additions:
        return catalogue
    taken = set(catalogue.names.tolist())
    rows = []
    number = 0
    for addition in additions:
        for _ in range(addition.count):
            while (name := f"added-{number:04d}") in taken:
                number += 1
            number += 1
            rows.append(
                {
                    "adapter": name,
                    "base_model": base_model,
                    "rank": addition.rank,
                    "rate_rps": addition.rate_rps,
                    "mean_input_tokens": addition.mean_input_tokens,
                    "mean_output_tokens": addition.mean_output_tokens,
                }
            )
    frame = pd.concat([catalogue.frame(), pd.DataFrame(rows)], ignore_index=True)
    return AdapterCatalogue.from_frame(frame, source=f"{catalogue.source} with what-if adapters")
