"""Where a capacity model comes from, and what is wrong when there can be none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pandas as pd

from maitre.errors import UserError

FORMAT = 7


class MaxpackError(UserError):
    """No model can be fitted on these traces, a folder holds no model, or servers are missing."""


@dataclass(frozen=True)
class ModelCard:
    """Where a model comes from.

    Compare `profile_fingerprint` to know whether the model is stale. Its risk is the risk of
    missing `ttft_slo_ms` or of starving, for that objective alone. `random_state` and
    `iterations` fit it again.
    """

    profile: str
    profile_fingerprint: str
    ttft_slo_ms: float
    data_fingerprint: str
    rows: int
    max_adapters: int
    random_state: int
    iterations: int
    format: int = FORMAT

    @classmethod
    def of(
        cls, ran: pd.DataFrame, traces: pd.DataFrame, random_state: int, iterations: int
    ) -> ModelCard:
        """Return the card of a model fitted on the rows `ran` of `traces`.

        Raises:
            MaxpackError: the traces mix profiles or objectives.
        """
        single = {}
        for column in ("profile", "profile_fingerprint", "ttft_slo_ms"):
            values = ran[column].unique()
            if len(values) != 1:
                raise MaxpackError(
                    f"the traces mix several values of {column}: expected one; got "
                    f"{list(values)[:3]}"
                )
            single[column] = values[0]
        return cls(
            profile=str(single["profile"]),
            profile_fingerprint=str(single["profile_fingerprint"]),
            ttft_slo_ms=float(single["ttft_slo_ms"]),
            data_fingerprint=fingerprint_of(traces),
            rows=len(ran),
            max_adapters=int(ran["adapters"].max()),
            random_state=random_state,
            iterations=iterations,
        )


def fingerprint_of(traces: pd.DataFrame) -> str:
    """Return a hash of the traces' content: the same rows give the same text."""
    digest = hashlib.sha256(",".join(traces.columns).encode())
    digest.update(pd.util.hash_pandas_object(traces, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]
