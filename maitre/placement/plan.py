"""A placement plan: which adapters which server holds, with which share of their requests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maitre.placement.diff import PlanDiff, compare, shares_by_adapter
from maitre.placement.document import PlanError, field_of
from maitre.placement.evidence import Evidence
from maitre.placement.planned_server import AdapterShare, PlannedServer, Prediction
from maitre.placement.promise import Promise

__all__ = [
    "AdapterShare",
    "Evidence",
    "PlacementPlan",
    "PlanError",
    "PlannedServer",
    "Prediction",
    "Promise",
]

SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PlacementPlan:
    """Servers and their adapters; the shares of each adapter sum to 1.

    `profile` names the server profile planned for; `lower_bound_gpus` is a number of GPUs below
    which no plan keeps up with the catalogue's rates; `baselines` the GPUs that simpler methods
    need; `evidence` what is promised and how it was checked.

    Raises:
        PlanError: shares that do not sum to 1, an adapter twice on a server, a server without
            adapters or with a duplicate name.
    """

    profile: str
    servers: tuple[PlannedServer, ...]
    lower_bound_gpus: int = 0
    baselines: Mapping[str, int] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        _check_servers(self.servers)

    @property
    def gpus(self) -> int:
        """GPUs the plan uses: one per server."""
        return len(self.servers)

    @property
    def promise(self) -> Promise:
        """What the plan promises; the defaults where it does not say (plans of old versions)."""
        return self.evidence.promise or Promise()

    def servers_of(self) -> dict[str, dict[str, float]]:
        """Return the servers that hold each adapter, with their shares."""
        return shares_by_adapter(self.servers)

    def diff(self, other: PlacementPlan) -> PlanDiff:
        """Return the changes from this plan to `other`."""
        return compare(self.servers, other.servers)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as the JSON document of the contract."""
        return {
            "profile": self.profile,
            "servers": [server.to_dict() for server in self.servers],
            "lower_bound_gpus": self.lower_bound_gpus,
            "baselines": dict(self.baselines),
            "evidence": self.evidence.to_dict(),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PlacementPlan:
        """Read a plan back.

        Raises:
            PlanError: not JSON, a field is missing or of the wrong kind, or the plan contradicts
                itself.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the plan is not JSON: {error}") from error
        return cls.from_dict(document)

    @classmethod
    def from_dict(cls, document: Any) -> PlacementPlan:
        """Build a plan from the parsed JSON document.

        Raises:
            PlanError: as `from_json`.
        """
        if not isinstance(document, Mapping):
            raise PlanError("the plan must be a JSON object with 'profile' and 'servers'")
        where = "the plan"
        servers = field_of(document, "servers", list, where)
        baselines = field_of(document, "baselines", dict, where, {})
        return cls(
            profile=field_of(document, "profile", str, where),
            servers=tuple(
                PlannedServer.from_dict(entry, f"servers[{i}]") for i, entry in enumerate(servers)
            ),
            lower_bound_gpus=field_of(document, "lower_bound_gpus", int, where, 0),
            baselines={name: field_of(baselines, name, int, "baselines") for name in baselines},
            evidence=Evidence.from_dict(field_of(document, "evidence", dict, where, {})),
        )


def _check_servers(servers: tuple[PlannedServer, ...]) -> None:
    names: set[str] = set()
    totals: dict[str, list[float]] = {}
    for server in servers:
        if server.name in names:
            raise PlanError(f"two servers are called {server.name!r}")
        names.add(server.name)
        if not server.adapters:
            raise PlanError(f"server {server.name!r} holds no adapter")
        held: set[str] = set()
        for part in server.adapters:
            if part.adapter in held:
                raise PlanError(f"server {server.name!r} lists adapter {part.adapter!r} twice")
            held.add(part.adapter)
            if not 0 < part.share <= 1 + SHARE_TOLERANCE:
                raise PlanError(f"adapter {part.adapter!r} on {server.name!r}: share {part.share}")
            totals.setdefault(part.adapter, []).append(part.share)
    for adapter, shares in totals.items():
        total = math.fsum(shares)
        if abs(total - 1) > SHARE_TOLERANCE:
            raise PlanError(f"the shares of adapter {adapter!r} sum to {total:g}, not to 1")
