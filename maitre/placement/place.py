"""From a catalogue to a plan: pack, search, check in the twin, repair."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.steady import SteadyStateModel
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import lower_bounds
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.plan import PlacementPlan
from maitre.placement.remove_server import on_fewer_servers
from maitre.placement.replicas import as_is, replicated, separated
from maitre.placement.search import fewest_servers, shortest_steps
from maitre.placement.settings import (
    DEFAULT_HEADROOM,
    Constraints,
    PlacementError,
    PlacementSettings,
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
    risk: float = 0.01,
    seed: int = 0,
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS,
    headroom: float = DEFAULT_HEADROOM,
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
    """A plan with few GPUs on which no server and no adapter starves.

    Packs every server to what the capacity `model` allows at `risk` (without a model: to its
    steady state) at rates `headroom` above the catalogue's; then simulates servers for
    `check_duration_s` (0: not at all) at those rates and moves adapters until all are healthy. With
    `gpus` the plan uses up to that many for the shortest steps instead of few. `pins` and
    `replicas`: see `Constraints`. The same for the same seed. `on_progress` gets the step
    as its note.

    Raises:
        CatalogueError: base models or ranks that the profile does not cover, adapters that no
            server holds, or constraints on adapters that are not in the catalogue.
        PlacementError: settings out of range, or the model was fitted for another profile, or
            some server stays unhealthy whatever is moved, or more GPUs are needed than allowed.
    """
    settings = PlacementSettings(
        risk, ttft_slo_ms, headroom, check_duration_s, check_servers, baselines, gpus, seed, workers
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
    """`place` with its settings in one piece."""
    constraints.check(catalogue)
    lengths = lengths or default_lengths()
    capacity = capacity_of(profile, model, settings, lengths)
    largest = int(capacity.options.kv_cache_tokens.max())
    catalogue.check(
        base_models={profile.base_model},
        max_rank=profile.valid.max_lora_rank[1],
        max_tokens=min(profile.memory.max_model_len, largest),
    )
    report(0, 1, "pack")
    demand = replicated(catalogue, lengths, capacity, 1 + settings.headroom, constraints)
    apart = np.flatnonzero(np.isin(catalogue.names.astype(str), list(constraints.replicas)))
    found, fuller = _packed(demand, capacity, settings, apart)
    report(1, 1, "pack")
    names = constraints.pinned_servers
    verifier = Verifier(demand, catalogue, profile, capacity, settings, lengths, names, report)
    # Simulations leave Python's lock to others most of the time.
    with ThreadPoolExecutor(1) as pool:
        compared = pool.submit(_compared, catalogue, demand, capacity, settings, lengths, found)
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
        evidence(settings, verified.evidence, min(promised, len(servers)), profile),
    )


def _compared(
    catalogue: AdapterCatalogue,
    demand: Demand,
    capacity: Capacity,
    settings: PlacementSettings,
    lengths: Lengths,
    found: Assignment,
) -> tuple[tuple[int, int], dict[str, int]]:
    """The bounds on any plan, and what simpler methods need."""
    others: dict[str, int] = {}
    if settings.baselines:
        others = baseline_gpus(demand, capacity, seed=settings.seed, limit=40 * found.servers)
    return bounds(catalogue, lengths, settings, capacity), others


def bounds(
    catalogue: AdapterCatalogue, lengths: Lengths, settings: PlacementSettings, capacity: Capacity
) -> tuple[int, int]:
    """Lower bounds on servers at the catalogue's rates and at those with the headroom on top.

    For the objective of the settings: who may wait longer for a slot needs fewer servers.
    """
    as_told, promised = lower_bounds(
        as_is(catalogue, lengths),
        capacity.options,
        (1.0, 1 + settings.headroom),
        max_adapters=capacity.max_adapters,
        ttft_slo_ms=settings.ttft_slo_ms,
    )
    return as_told, promised


def capacity_of(
    profile: ServerProfile, model: Model | None, settings: PlacementSettings, lengths: Lengths
) -> Capacity:
    """What decides whether adapters may share a server of this profile.

    Raises:
        PlacementError: the model was fitted for another profile or objective.
    """
    if isinstance(model, MaxpackModel):
        settings.check_card(model.card, profile)
    return Capacity(
        model or SteadyStateModel(),
        ServerOptions.of(profile, lengths),
        settings.risk,
        profile.valid.adapters[1],
    )


def evidence(
    settings: PlacementSettings, check: dict[str, Any], promised_bound: int, profile: ServerProfile
) -> dict[str, Any]:
    """What the plan promises and what speaks for it, for its readers."""
    return {
        "risk": settings.risk,
        "headroom": settings.headroom,
        "ttft_slo_ms": settings.ttft_slo_ms,
        "profile_fingerprint": profile.fingerprint(),
        "lower_bound_gpus_with_headroom": promised_bound,
        **check,
    }


def _packed(
    demand: Demand, capacity: Capacity, settings: PlacementSettings, apart: np.ndarray
) -> tuple[Assignment, Assignment | None]:
    """What the model is sure of and, if there is such, what on fewer servers the twin may allow.

    The replicas of the adapters `apart` are on servers of their own.
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
