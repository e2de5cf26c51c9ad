"""A placement plan: which adapters which server holds, with which share of their requests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maitre.errors import UserError
from maitre.placement.diff import PlanDiff, compare
from maitre.twin.errors import TwinInputError
from maitre.twin.limits import LIMITS, VllmLimits

SHARE_TOLERANCE = 1e-6


class PlanError(UserError):
    """A plan that contradicts itself, or a document that is not a plan."""


@dataclass(frozen=True)
class AdapterShare:
    """The part of an adapter's requests that one server answers: `share` in (0, 1]."""

    adapter: str
    share: float = 1.0


@dataclass(frozen=True)
class PlannedServer:
    """One vLLM replica on one GPU.

    `config` holds vLLM's limits; `predicted` what the capacity model expects of it (`offered_tps`,
    `starvation_risk`, `limited_by`, ...). `profile` is its own where a plan has several.
    """

    name: str
    base_model: str
    config: VllmLimits
    adapters: tuple[AdapterShare, ...]
    predicted: dict[str, Any] = field(default_factory=dict)
    profile: str = ""


@dataclass(frozen=True)
class PlacementPlan:
    """Servers and their adapters; the shares of each adapter sum to 1.

    `profile` names the server profile planned for; `lower_bound_gpus` is a number of GPUs below
    which no plan keeps up with the catalogue's rates; `baselines` the GPUs that simpler methods
    need; `evidence` what is promised (`risk`, `headroom`) and how it was checked.

    Raises:
        PlanError: shares that do not sum to 1, an adapter twice on a server, a server without
            adapters or with a duplicate name.
    """

    profile: str
    servers: tuple[PlannedServer, ...]
    lower_bound_gpus: int = 0
    baselines: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_servers(self.servers)

    @property
    def gpus(self) -> int:
        """GPUs the plan uses: one per server."""
        return len(self.servers)

    def servers_of(self) -> dict[str, dict[str, float]]:
        """For each adapter, the servers that hold it and their shares."""
        placed: dict[str, dict[str, float]] = {}
        for server in self.servers:
            for held in server.adapters:
                placed.setdefault(held.adapter, {})[server.name] = held.share
        return placed

    def diff(self, other: PlacementPlan) -> PlanDiff:
        """What has to change to get from this plan to `other`."""
        return compare(self, other)

    def to_dict(self) -> dict[str, Any]:
        """The plan as the JSON document of the contract."""
        return {
            "profile": self.profile,
            "servers": [
                {
                    "name": server.name,
                    "base_model": server.base_model,
                    "config": server.config.limits(),
                    "adapters": [
                        {"adapter": held.adapter, "share": held.share} for held in server.adapters
                    ],
                    "predicted": dict(server.predicted),
                    **({"profile": server.profile} if server.profile else {}),
                }
                for server in self.servers
            ],
            "lower_bound_gpus": self.lower_bound_gpus,
            "baselines": dict(self.baselines),
            "evidence": dict(self.evidence),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The plan as JSON text."""
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
        except json.JSONDecodeError as error:
            raise PlanError(f"the plan is not JSON: {error}") from error
        return cls.from_dict(document)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PlacementPlan:
        """Build a plan from the parsed JSON document.

        Raises:
            PlanError: as `from_json`.
        """
        if not isinstance(document, Mapping):
            raise PlanError("the plan must be a JSON object with 'profile' and 'servers'")
        servers = _required(document, "servers", list, "the plan")
        return cls(
            profile=_required(document, "profile", str, "the plan"),
            servers=tuple(_server(i, entry) for i, entry in enumerate(servers)),
            lower_bound_gpus=int(document.get("lower_bound_gpus", 0)),
            baselines={str(k): int(v) for k, v in dict(document.get("baselines", {})).items()},
            evidence=dict(document.get("evidence") or {}),
        )


def _server(position: int, entry: Any) -> PlannedServer:
    where = f"servers[{position}]"
    name = _required(entry, "name", str, where)
    where = f"server {name!r}"
    config = _required(entry, "config", dict, where)
    return PlannedServer(
        name=name,
        base_model=_required(entry, "base_model", str, where),
        config=_limits({key: _required(config, key, int, where) for key in LIMITS}, where),
        adapters=tuple(
            AdapterShare(
                _required(held, "adapter", str, where),
                float(_required(held, "share", (int, float), where)),
            )
            for held in _required(entry, "adapters", list, where)
        ),
        predicted=dict(entry.get("predicted") or {}),
        profile=str(entry.get("profile") or ""),
    )


def _limits(values: Mapping[str, int], where: str) -> VllmLimits:
    try:
        return VllmLimits.of(values)
    except TwinInputError as error:
        raise PlanError(f"{where}: {error}") from error


def _required(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise PlanError(f"{where}: field {key!r} is missing")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PlanError(f"{where}: field {key!r} is {value!r}, not of the right kind")
    return value


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
