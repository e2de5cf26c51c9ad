"""The running plan carried over to new rates with few moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.evidence import Evidence
from maitre.placement.place import Model, bounds, capacity_of
from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.placement.promise import Promise
from maitre.placement.relocate import carried_over, relocate, tolerated
from maitre.placement.replicas import as_is, fits_nowhere
from maitre.placement.servers import accepted_risks, planned_servers, with_accepted_risks
from maitre.placement.settings import Constraints
from maitre.placement.split_hot import split_hot
from maitre.twin import Lengths, ServerProfile
from maitre.twin.limits import VllmLimits

# A server is relieved only when its risk is this many times what it is packed to.
HYSTERESIS = 5.0


def replan(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: Model | None = None,
    promise: Promise | None = None,
    max_moves: int | None = None,
    max_closing_moves: int = 0,
    tolerated_risk: float | None = None,
    pins: Mapping[str, str] | None = None,
    lengths: Lengths | None = None,
) -> PlacementPlan:
    """The running plan for the catalogue's new rates, moving few adapters.

    Servers within `tolerated_risk` (`HYSTERESIS` times `risk` unless given) stay as they are;
    others, the riskiest first, are reconfigured or give up the fewest adapters until within `risk`;
    new adapters go where they cost least; one that has grown hotter than a server is divided into
    replicas. At most `max_moves` adapters are moved (None: as many as
    it takes), of them `max_closing_moves` only to close servers; servers that stay over the
    tolerated risk for want of moves are named in `evidence["servers_over_risk"]`. `pins`
    (adapter to server) are moved first and then stay. Servers keep their names, and their
    `max_cpu_loras` while it suffices, as a change would restart them. Not simulated: use
    `check_plan`.

    Raises:
        CatalogueError, PlacementError: as `place`; pins to servers that the plan does not have.
    """
    promise = promise or Promise()
    risk = promise.risk
    constraints = Constraints(pins or {})
    catalogue.check(base_models={profile.base_model}, max_rank=profile.valid.max_lora_rank[1])
    constraints.check(catalogue)
    lengths = lengths or default_lengths()
    capacity = capacity_of(profile, model, promise, lengths)
    act_above = HYSTERESIS * risk if tolerated_risk is None else tolerated_risk
    whole = as_is(catalogue, lengths, promise.rate_factor)
    running = _with_pins(plan, constraints, catalogue)
    carried = carried_over(running, catalogue.names, whole, capacity)
    carried = replace(carried, demand=_pinned(carried.demand, constraints, catalogue))
    carried, hopeless = split_hot(carried, whole, capacity, act_above)
    if len(hopeless):
        raise fits_nowhere(catalogue, hopeless)
    moved = relocate(
        carried,
        capacity,
        tolerated_risk=act_above,
        moves=max_moves,
        closing_moves=max_closing_moves,
    )
    kept, server = np.unique(moved.server, return_inverse=True)
    choice = capacity.best(carried.demand.sums(server, len(kept)), moved.rows[kept])
    found = Assignment(server, choice.rows, choice.risk, choice.fill)
    names = [
        carried.names[i] if i < len(carried.names) else _fresh_name(profile, carried.names, i)
        for i in kept
    ]
    accepted = accepted_risks(plan.servers)
    written = planned_servers(found, carried.demand, catalogue, profile, capacity, names, promise)
    servers = with_accepted_risks(_unrestarted(plan, written), accepted)
    limits = np.array([max(accepted.get(name, 0.0), risk) for name in names])
    over = [names[i] for i in np.flatnonzero(choice.risk > tolerated(limits, risk, act_above))]
    as_told, promised = bounds(catalogue, lengths, promise, capacity)
    return PlacementPlan(
        profile.name,
        servers,
        min(as_told, len(servers)),
        {},
        Evidence(
            promise=promise,
            profile_fingerprint=profile.fingerprint(),
            lower_bound_gpus_with_headroom=min(promised, len(servers)),
            servers_checked=0,
            servers_over_risk=tuple(over),
        ),
    )


def _with_pins(
    plan: PlacementPlan, constraints: Constraints, catalogue: AdapterCatalogue
) -> PlacementPlan:
    """The plan with pinned adapters on their servers."""
    if not constraints.pins:
        return plan
    names = {server.name for server in plan.servers}
    unknown = [
        f"pin: adapter {adapter!r} to server {server!r}, which the running plan does not have"
        for adapter, server in constraints.pins.items()
        if server not in names
    ]
    if unknown:
        raise CatalogueError(catalogue.source, unknown)
    placed = plan.servers_of()
    loose = {
        adapter
        for adapter, server in constraints.pins.items()
        if server not in placed.get(adapter, {})
    }
    servers = []
    for server in plan.servers:
        stay = [held for held in server.adapters if held.adapter not in loose]
        join = [a for a in sorted(loose) if constraints.pins[a] == server.name]
        shares = (*stay, *(AdapterShare(a) for a in join))
        if shares:
            servers.append(replace(server, adapters=shares))
    return replace(plan, servers=tuple(servers))


def _pinned(demand: Demand, constraints: Constraints, catalogue: AdapterCatalogue) -> Demand:
    """The parts of pinned adapters marked, so that they stay where they are."""
    if not constraints.pins:
        return demand
    return replace(demand, pin=constraints.pin_numbers(catalogue)[demand.adapter])


def _unrestarted(
    plan: PlacementPlan, servers: tuple[PlannedServer, ...]
) -> tuple[PlannedServer, ...]:
    """The servers, with the running `max_cpu_loras` where nothing else of a server changes."""
    running = {server.name: server.config for server in plan.servers}
    kept = []
    for server in servers:
        was = running.get(server.name)
        enough = was is not None and was.max_cpu_loras >= len(server.adapters)
        if was is not None and enough and _but_cpu(was) == _but_cpu(server.config):
            server = replace(server, config=was)
        kept.append(server)
    return tuple(kept)


def _but_cpu(config: VllmLimits) -> VllmLimits:
    return replace(config, max_cpu_loras=config.max_loras)


def _fresh_name(profile: ServerProfile, taken: tuple[str, ...], i: int) -> str:
    while (name := f"{profile.base_model}-{i:04d}") in taken:
        i += len(taken)
    return name
