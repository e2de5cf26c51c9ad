"""One server of a plan: its adapters, its configuration, and what the capacity model expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from maitre.placement.document import PlanError, field_of
from maitre.twin.errors import TwinInputError
from maitre.twin.limits import LIMITS, VllmLimits


@dataclass(frozen=True)
class AdapterShare:
    """The part of an adapter's requests that one server answers: `share` in (0, 1]."""

    adapter: str
    share: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What the capacity model expects of a server.

    `rate_rps` and `offered_tps` are the load at the catalogue's rates; all else is at the rates of
    the promise, with the headroom. `accepted_risk` is the risk up to which the twin has let the
    server be filled, where that is above the promised one.
    """

    rate_rps: float
    offered_tps: float
    starvation_risk: float
    fill: float
    kv_fraction: float
    adapters_in_batch: float
    itl_ms: float
    limited_by: str
    accepted_risk: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str) -> Prediction | None:
        """Read a prediction back; return `None` where the document holds no complete one.

        Raises:
            PlanError: a value is not of the right kind.
        """
        kinds = {each.name: str if each.name == "limited_by" else float for each in fields(cls)}
        found = {name: field_of(document, name, kind, where, None) for name, kind in kinds.items()}
        complete = all(value is not None for name, value in found.items() if name != _ACCEPTED)
        return cls(**found) if complete else None  # type: ignore[arg-type]


_ACCEPTED = "accepted_risk"


@dataclass(frozen=True)
class PlannedServer:
    """One vLLM replica on one GPU.

    `config` holds vLLM's limits; `predicted` is `None` for a server that no model has judged.
    `profile` is the server's own where a plan has several.
    """

    name: str
    base_model: str
    config: VllmLimits
    adapters: tuple[AdapterShare, ...]
    predicted: Prediction | None = None
    profile: str = ""

    @property
    def accepted_risk(self) -> float:
        """The risk up to which the twin has let the server be filled; 0 where it was not asked."""
        return (self.predicted.accepted_risk or 0.0) if self.predicted else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the server as the JSON document of the contract."""
        return {
            "name": self.name,
            "base_model": self.base_model,
            "config": self.config.limits(),
            "adapters": [{"adapter": held.adapter, "share": held.share} for held in self.adapters],
            "predicted": self.predicted.to_dict() if self.predicted else {},
            **({"profile": self.profile} if self.profile else {}),
        }

    @classmethod
    def from_dict(cls, document: Any, where: str) -> PlannedServer:
        """Read a server back; `where` is its place in the plan, for messages.

        Raises:
            PlanError: a field is missing or of the wrong kind.
        """
        name = field_of(document, "name", str, where)
        where = f"server {name!r}"
        config = field_of(document, "config", dict, where)
        limits = {limit: field_of(config, limit, int, where) for limit in LIMITS}
        try:
            checked = VllmLimits.of(limits)
        except TwinInputError as error:
            raise PlanError(f"{where}: {error}") from error
        return cls(
            name=name,
            base_model=field_of(document, "base_model", str, where),
            config=checked,
            adapters=tuple(
                AdapterShare(
                    field_of(held, "adapter", str, where), field_of(held, "share", float, where)
                )
                for held in field_of(document, "adapters", list, where)
            ),
            predicted=Prediction.from_dict(field_of(document, "predicted", dict, where, {}), where),
            profile=field_of(document, "profile", str, where, ""),
        )
