"""The plan that is served now, whatever was planned since: routed shares, servers as started."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maitre.serving.proxy.routes import Routes

if TYPE_CHECKING:
    from maitre.placement.plan import PlacementPlan
    from maitre.twin.limits import VllmLimits


def served_plan(
    routes: Routes, configs: "Mapping[str, VllmLimits]", profile: str
) -> "PlacementPlan":
    """The routes' servers as a plan, with the shares that they route and their `configs`.

    Left out, as a plan cannot say it: servers that no adapter is routed to, and those without a
    known configuration, whose part of an adapter falls to its other servers.
    """
    from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer

    known = routes.servers.keys() & configs.keys()
    parts: dict[str, list[AdapterShare]] = {}
    for adapter, weights in sorted(routes.adapters.items()):
        held = {name: weight for name, weight in weights.items() if name in known and weight > 0}
        total = math.fsum(held.values())
        for name, weight in held.items():
            parts.setdefault(name, []).append(AdapterShare(adapter, weight / total))
    return PlacementPlan(
        profile,
        tuple(
            PlannedServer(name, routes.servers[name].base_model, configs[name], tuple(held))
            for name, held in sorted(parts.items())
        ),
    )
