"""From a catalogue to a plan: pack, search, check in the twin, repair."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.steady import SteadyStateModel
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import lower_bounds
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.length_warnings import length_warnings
from maitre.placement.plan import PlacementPlan
from maitre.placement.promise import Promise
from maitre.placement.remove_server import on_fewer_servers
from maitre.placement.replicas import as_is, replicated, separated
from maitre.placement.search import fewest_servers, shortest_steps
from maitre.placement.settings import (
    Constraints,
    PlacementError,
    PlacementSettings,
    check_card,
)
from maitre.placement.verify_and_repair import Verifier
from maitre.progress import Progress, ignore_progress
from maitre.twin import Lengths, ServerProfile

Model = MaxpackModel | SteadyStateModel


def place(
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: Model | None = None,
    promise: Promise | None = None,
    seed: int = 0,
    check_duration_s: float = 3600.0,
    check_servers: int = 256,
    baselines: bool = True,
    gpus: int | None = None,
    pins: Mapping[str, str] | None = None,
    replicas: Mapping[str, int] | None = None,
    lengths: Lengths | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """Return a plan with few GPUs on which no server and no adapter starves.

    Packs every server to what the capacity `model` (without a model: the steady state) allows under
    the `promise`; then simulates servers for `check_duration_s` (0: not at all) at the promised
    rates and moves adapters until all are healthy. With `gpus` the plan uses up to that many GPUs
    for the shortest steps, instead of the fewest. `pins` and `replicas`: see `Constraints`. The
    same seed gives the same plan. `on_progress` gets the step as its note.

    Raises:
        CatalogueError: base models or ranks that the profile does not cover, adapters that no
            server holds, or constraints on adapters that are not in the catalogue.
        PlacementError: settings out of range; a model that was fitted for another profile; a
            server that stays unhealthy whatever is moved; more GPUs needed than allowed.
    """
    settings = PlacementSettings(
        promise or Promise(), check_duration_s, check_servers, baselines, gpus, seed, workers
    )
    constraints = Constraints(pins or {}, replicas or {})
    return place_one_kind(
        catalogue, profile, model, settings, constraints, lengths, on_progress or ignore_progress
    )


def place_one_kind(
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    model: Model | None,
    settings: PlacementSettings,
    constraints: Constraints,
    lengths: Lengths | None,
    report: Progress,
) -> PlacementPlan:
    """Place as `place` does, with its settings as one value."""
    constraints.check(catalogue)
    lengths = lengths or default_lengths()
    capacity = capacity_of(profile, model, settings.promise, lengths)
    largest = int(capacity.options.kv_cache_tokens.max())
    catalogue.check(
        base_models={profile.base_model},
        max_rank=profile.valid.max_lora_rank[1],
        max_tokens=min(profile.memory.max_model_len, largest),
    )
    report(0, 1, "pack")
    demand = replicated(catalogue, lengths, capacity, settings.promise.rate_factor, constraints)
    apart = np.flatnonzero(np.isin(catalogue.names.astype(str), list(constraints.replicas)))
    found, fuller = packed(demand, capacity, settings, apart)
    report(1, 1, "pack")
    names = constraints.pinned_servers
    verifier = Verifier(demand, catalogue, profile, capacity, settings, lengths, names, report)
    # Simulations leave Python's lock to others most of the time.
    with ThreadPoolExecutor(1) as pool:
        compared = pool.submit(
            _bounds_and_baselines, catalogue, demand, capacity, settings, lengths, found
        )
        verified = verifier.judge(fuller, found.servers - 1) if fuller else None
        verified = verified or verifier.verify(found)
        report(0, 1, "bound")
        (as_told, promised), others = compared.result()
        report(1, 1, "bound")
    servers = verified.servers
    if settings.gpus is not None and len(servers) > settings.gpus:
        raise PlacementError(_too_few(settings.gpus, len(servers)))
    return PlacementPlan(
        profile.name,
        servers,
        min(as_told, len(servers)),
        others,
        replace(
            verified.evidence,
            promise=settings.promise,
            profile_fingerprint=profile.fingerprint(),
            lower_bound_gpus_with_headroom=min(promised, len(servers)),
            warnings=length_warnings(servers, catalogue, profile, lengths) or None,
        ),
    )


def _bounds_and_baselines(
    catalogue: AdapterCatalogue,
    demand: Demand,
    capacity: Capacity,
    settings: PlacementSettings,
    lengths: Lengths,
    found: Assignment,
) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the bounds on any plan, and the servers that simpler methods need."""
    others: dict[str, int] = {}
    if settings.baselines:
        others = baseline_gpus(demand, capacity, seed=settings.seed, limit=40 * found.servers)
    return bounds(catalogue, lengths, settings.promise, capacity), others


def bounds(
    catalogue: AdapterCatalogue, lengths: Lengths, promise: Promise, capacity: Capacity
) -> tuple[int, int]:
    """Return lower bounds on servers: at the catalogue's rates, and with the headroom on top.

    They hold for the promised objective: requests that may wait longer need fewer servers.
    """
    as_told, promised = lower_bounds(
        as_is(catalogue, lengths),
        capacity.options,
        (1.0, promise.rate_factor),
        max_adapters=capacity.max_adapters,
        ttft_slo_ms=promise.ttft_slo_ms,
    )
    return as_told, promised


def capacity_of(
    profile: ServerProfile, model: Model | None, promise: Promise, lengths: Lengths
) -> Capacity:
    """Return what decides whether adapters may share a server of this profile.

    Raises:
        PlacementError: the model was fitted for another profile or objective.
    """
    if isinstance(model, MaxpackModel):
        check_card(model.card, profile, promise)
    return Capacity(
        model or SteadyStateModel(),
        ServerOptions.of(profile, lengths),
        promise.risk,
        profile.valid.adapters[1],
    )


def packed(
    demand: Demand, capacity: Capacity, settings: PlacementSettings, apart: np.ndarray
) -> tuple[Assignment, Assignment | None]:
    """Return the packing that the model is sure of, and a fuller one that the twin may allow.

    The second is `None` where there is no packing on fewer servers. The replicas of the adapters
    `apart` are on servers of their own.

    Raises:
        PlacementError: more GPUs are needed than allowed, or pinned adapters do not fit together.
    """
    if settings.gpus is not None:
        found = shortest_steps(demand, capacity, settings.gpus)
        fewest = found or fewest_servers(demand, capacity)
        if found is None and fewest is not None:
            raise PlacementError(_too_few(settings.gpus, fewest.servers))
    else:
        found = fewest_servers(demand, capacity)
    if found is None:
        raise PlacementError(
            "the adapters pinned to one server do not fit it together, or some adapter fits no "
            "server even alone; pin fewer, or allow more risk"
        )
    found = separated(found, demand, capacity, apart)
    while settings.gpus is None:
        fuller = on_fewer_servers(found, demand, capacity, seed=settings.seed)
        if fuller is None:
            break
        fuller = separated(fuller, demand, capacity, apart)
        if fuller.servers >= found.servers:
            break
        if fuller.risk.max() > capacity.risk:
            every = found.servers <= settings.check_servers
            return found, fuller if every and settings.check_duration_s > 0 else None
        found = fuller
    return found, None


def _too_few(gpus: int, needed: int) -> str:
    return f"{gpus} GPUs are allowed and {needed} are needed; allow more GPUs or more risk"
