"""What a plan promises of each of its servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maitre.errors import UserError
from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS, HealthRule

DEFAULT_RISK = 0.01
DEFAULT_HEADROOM = 0.05
LARGEST_HEADROOM = 10.0


class PromiseError(UserError):
    """A promise that no plan can be made for."""


@dataclass(frozen=True)
class Promise:
    """At rates `headroom` above the catalogue's, every server is healthy (`HealthRule`).

    `ttft_slo_ms` is the objective of the health rule; `risk` the largest probability, by the
    capacity model, that a server is not healthy.

    Raises:
        PromiseError: a value out of range.
    """

    risk: float = DEFAULT_RISK
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    headroom: float = DEFAULT_HEADROOM

    def __post_init__(self) -> None:
        if not 0 < self.risk < 1:
            raise PromiseError(
                f"risk: expected a probability above 0 and below 1; got {self.risk!r}"
            )
        if not 0 < self.ttft_slo_ms < float("inf"):
            raise PromiseError(
                "ttft_slo_ms: expected a time to first token in milliseconds, above 0; "
                f"got {self.ttft_slo_ms!r}"
            )
        if not 0 <= self.headroom < LARGEST_HEADROOM:
            raise PromiseError(
                "headroom: expected the part above the catalogue's rates that servers must "
                f"sustain, from 0 to below {LARGEST_HEADROOM:g}; got {self.headroom!r}"
            )

    @property
    def rate_factor(self) -> float:
        """The multiple of the catalogue's rates that servers must sustain."""
        return 1 + self.headroom

    @property
    def rule(self) -> HealthRule:
        """When a server keeps this promise."""
        return HealthRule(ttft_slo_ms=self.ttft_slo_ms)

    def to_dict(self) -> dict[str, float]:
        """Return the promise as the fields of a plan's evidence."""
        return {"risk": self.risk, "headroom": self.headroom, "ttft_slo_ms": self.ttft_slo_ms}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Promise | None:
        """Read the fields back; `None` where there are none. A missing one has its default.

        Raises:
            PromiseError: a value that is not a number, or out of range.
        """
        given = {
            name: document[name] for name in ("risk", "ttft_slo_ms", "headroom") if name in document
        }
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise PromiseError(f"{name}: expected a number; got {value!r}")
        return cls(**given) if given else None
