"""Writes an assignment out as the servers of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.planned_server import AdapterShare, PlannedServer, Prediction
from maitre.placement.promise import Promise
from maitre.twin import ServerProfile
from maitre.twin.limits import VllmLimits


def planned_servers(
    found: Assignment,
    demand: Demand,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    capacity: Capacity,
    names: Sequence[str],
    promise: Promise,
) -> tuple[PlannedServer, ...]:
    """Return the assignment as servers; replicas of one adapter on one server become one share.

    `demand` is at the promised rates. `names` are those of the first servers. The others are called
    after the base model and numbered; numbers whose name is taken are skipped.
    """
    sets = demand.sums(found.server, found.servers)
    offered = demand.at_rates(1 / promise.rate_factor).sums(found.server, found.servers)
    fluid = fluid_features(sets, capacity.options, found.rows)
    order = np.argsort(found.server, kind="stable")
    edges = np.searchsorted(found.server[order], np.arange(found.servers + 1))
    called = _server_names(profile.base_model, names, found.servers)
    servers = []
    for i in range(found.servers):
        shares: dict[int, float] = {}
        for part in order[edges[i] : edges[i + 1]]:
            adapter = int(demand.adapter[part])
            shares[adapter] = shares.get(adapter, 0.0) + float(demand.share[part])
        config = capacity.options.config(int(found.rows[i]), len(shares))
        servers.append(
            PlannedServer(
                name=called[i],
                base_model=profile.base_model,
                config=VllmLimits.of(config.limits()),
                adapters=tuple(
                    AdapterShare(str(catalogue.names[a]), min(s, 1.0)) for a, s in shares.items()
                ),
                predicted=_prediction(i, offered, fluid[i], found),
            )
        )
    return tuple(servers)


def _server_names(base_model: str, names: Sequence[str], count: int) -> list[str]:
    """Return `count` names: the given ones, then `base_model-0000` and so on."""
    found, taken, number = list(names), set(names), len(names)
    while len(found) < count:
        if (name := f"{base_model}-{number:04d}") not in taken:
            found.append(name)
        number += 1
    return found


def _prediction(i: int, sets: SetSums, fluid: np.ndarray, found: Assignment) -> Prediction:
    """Return what to expect of server `i`: the load without the headroom, all else with it."""
    values = dict(zip(FLUID_FEATURES, fluid.tolist(), strict=True))
    return Prediction(
        rate_rps=round(float(sets.column("rate_rps")[i]), 4),
        offered_tps=round(float(sets.column("input_tps")[i] + sets.column("output_tps")[i]), 1),
        starvation_risk=round(float(found.risk[i]), 5),
        fill=round(values["fill"], 4),
        kv_fraction=round(values["kv_fraction"], 4),
        adapters_in_batch=round(values["adapters_in_batch"], 1),
        itl_ms=round(values["step_ms"], 1),
        limited_by=_scarcest_resource(values),
    )


def _scarcest_resource(values: dict[str, float]) -> str:
    """Return the resource that runs out first on a server, apart from the time of its steps."""
    limits = {
        "KV cache": values["fill_kv"],
        "slots": values["fill_slots"],
        "batch": values["fill_batch"],
    }
    name, fill = max(limits.items(), key=lambda item: item[1])
    return name if fill >= values["fill"] - 1e-3 else "step time"


def accepted_risks(servers: Iterable[PlannedServer]) -> dict[str, float]:
    """Return the risks up to which the twin has let servers be filled, by name."""
    return {server.name: server.accepted_risk for server in servers if server.accepted_risk}


def with_accepted_risks(
    servers: Iterable[PlannedServer], accepted: Mapping[str, float]
) -> tuple[PlannedServer, ...]:
    """Return the servers, those named with the risk up to which they may be filled."""
    return tuple(
        replace(server, predicted=replace(server.predicted, accepted_risk=accepted[server.name]))
        if server.name in accepted and server.predicted
        else server
        for server in servers
    )
