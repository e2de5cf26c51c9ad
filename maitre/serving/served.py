"""The plan in service: the routed shares on the servers, with the limits they were started with."""

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
    """Return the routes as a plan: each server with its routed shares and its limits.

    A plan cannot express a server without adapters, or one whose limits are unknown. Both are left
    out; the other servers of an adapter take over the share of an unknown server.
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
