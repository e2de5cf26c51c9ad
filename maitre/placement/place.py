"""From a catalogue to a plan: pack, search, check in the twin, repair, explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS, HealthRule
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.steady import SteadyStateModel
from maitre.placement.baselines import baseline_gpus
from maitre.placement.bound import lower_bound_servers
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.chain import Assignment
from maitre.placement.check import check_servers
from maitre.placement.demand import Demand
from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.placement.repair import relieve
from maitre.placement.replan import carried_over, settle
from maitre.placement.search import fewest_servers
from maitre.twin import Lengths, ServerProfile

Progress = Callable[[str, int, int], None]

DEFAULT_HEADROOM = 0.05
MAX_REPLICAS = 4096
REPAIR_ROUNDS = 10
FIRST_RELIEF = 0.04


class PlacementError(ValueError):
    """No plan keeps the promise: the message says which server fails and why."""


@dataclass(frozen=True)
class PlacementSettings:
    """What the plan promises and how hard it is checked.

    `risk`: the largest probability, by the capacity model, that a server is unhealthy at the
    catalogue's rates; `ttft_slo_ms`: see `maitre.maxpack.health`; `headroom`: the twin's check is
    made at rates this part above the catalogue's; `check_duration_s`: simulated seconds of that
    check of every server (0: no check); `baselines`: whether to compute them.
    """

    risk: float = 0.01
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    headroom: float = DEFAULT_HEADROOM
    check_duration_s: float = 3600.0
    baselines: bool = True
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("risk", 0.0, 1.0),
            ("ttft_slo_ms", 0.0, np.inf),
            ("headroom", -1.0, 10.0),
        ):
            value = getattr(self, name)
            if not low < value < high:
                raise PlacementError(f"{name} is {value!r}; it must lie between {low} and {high}")
        if self.check_duration_s < 0:
            raise PlacementError(f"check_duration_s is {self.check_duration_s!r}; it is a time")


def place(
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: MaxpackModel | SteadyStateModel | None = None,
    risk: float = 0.01,
    seed: int = 0,
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS,
    headroom: float = DEFAULT_HEADROOM,
    check_duration_s: float = 3600.0,
    baselines: bool = True,
    lengths: Lengths | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """A plan with few GPUs on which no server and no adapter starves.

    Packs every server to what the capacity `model` allows at `risk` (without a model: to its
    steady state); then simulates every server for `check_duration_s` (0: not at all) at rates
    `headroom` above the catalogue's and moves adapters until all are healthy. The same for the
    same seed. `on_progress(step, done, total)`.

    Raises:
        CatalogueError: base models or ranks that the profile does not cover, or adapters that no
            server holds.
        PlacementError: settings out of range, or the model was fitted for another profile, or
            some server stays unhealthy whatever is moved.
    """
    settings = PlacementSettings(
        risk, ttft_slo_ms, headroom, check_duration_s, baselines, seed, workers
    )
    catalogue.check(base_models={profile.base_model}, max_rank=profile.valid.max_lora_rank[1])
    lengths = lengths or default_lengths()
    report = on_progress or _silent
    options = ServerOptions.of(profile, lengths)
    capacity = Capacity(
        _checked(model, profile, settings), options, settings.risk, profile.valid.adapters[1]
    )
    report("pack", 0, 1)
    demand = replicated(catalogue, lengths, capacity)
    found = fewest_servers(demand, capacity)
    if found is None:
        raise PlacementError("some adapter fits no server even alone; lower the risk's demand")
    report("pack", 1, 1)
    found, servers = _checked_servers(
        found, demand, catalogue, profile, capacity, settings, lengths, report
    )
    whole = as_is(catalogue, lengths)
    report("bound", 0, 1)
    bound = lower_bound_servers(whole, options)
    report("bound", 1, 1)
    others = (
        baseline_gpus(demand, capacity, seed=seed, limit=40 * found.servers)
        if settings.baselines
        else {}
    )
    return PlacementPlan(profile.name, servers, min(bound, len(servers)), others)


def replan(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: MaxpackModel | SteadyStateModel | None = None,
    risk: float = 0.01,
    seed: int = 0,
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS,
    max_closing_moves: int = 0,
    lengths: Lengths | None = None,
) -> PlacementPlan:
    """The running plan carried over to the catalogue's new rates with few moves.

    Servers within their risk stay as they are; others are reconfigured or give up the fewest
    adapters; new adapters go where they cost least; `max_closing_moves` adapters may be moved only
    to close servers. Servers keep their names. Not simulated: use `check_plan`.

    Raises:
        CatalogueError, PlacementError: as `place`.
    """
    settings = PlacementSettings(risk, ttft_slo_ms, 0.0, 0.0, False, seed)
    catalogue.check(base_models={profile.base_model}, max_rank=profile.valid.max_lora_rank[1])
    lengths = lengths or default_lengths()
    options = ServerOptions.of(profile, lengths)
    capacity = Capacity(
        _checked(model, profile, settings), options, settings.risk, profile.valid.adapters[1]
    )
    whole = as_is(catalogue, lengths)
    carried = carried_over(plan, catalogue.names, whole, capacity)
    moved = settle(carried, capacity, closing_moves=max_closing_moves)
    kept, server = np.unique(moved.server, return_inverse=True)
    choice = capacity.best(carried.demand.sums(server, len(kept)), moved.rows[kept])
    found = Assignment(server, choice.rows, choice.risk, choice.fill)
    names = [
        carried.names[i] if i < len(carried.names) else _fresh_name(profile, carried.names, i)
        for i in kept
    ]
    servers = planned_servers(found, carried.demand, catalogue, profile, capacity, names)
    bound = lower_bound_servers(as_is(catalogue, lengths), options)
    return PlacementPlan(profile.name, servers, min(bound, len(servers)), {})


def _fresh_name(profile: ServerProfile, taken: tuple[str, ...], i: int) -> str:
    while (name := f"{profile.base_model}-{i:04d}") in taken:
        i += len(taken)
    return name


def as_is(catalogue: AdapterCatalogue, lengths: Lengths, factor: float = 1.0) -> Demand:
    """The catalogue as demand: one part an adapter, rates times `factor`."""
    mean_in, mean_out = lengths.means()
    return Demand.of(
        catalogue.rates_rps * factor,
        catalogue.ranks,
        np.where(np.isfinite(catalogue.mean_input_tokens), catalogue.mean_input_tokens, mean_in),
        np.where(np.isfinite(catalogue.mean_output_tokens), catalogue.mean_output_tokens, mean_out),
    )


def replicated(
    catalogue: AdapterCatalogue, lengths: Lengths, capacity: Capacity, factor: float = 1.0
) -> Demand:
    """The catalogue as demand, adapters hotter than one server divided into equal replicas.

    Raises:
        CatalogueError: an adapter fits no server even as `MAX_REPLICAS` replicas.
    """
    whole = as_is(catalogue, lengths, factor)
    replicas = np.ones(len(whole), dtype=np.int64)
    todo = np.arange(len(whole))
    while len(todo):
        parts = Demand.of(
            whole.rate_rps[todo] / replicas[todo],
            whole.rank[todo],
            whole.input_tokens[todo],
            whole.output_tokens[todo],
        )
        fits = capacity.fits(parts.sums(np.arange(len(parts)), len(parts)))
        todo = todo[~fits]
        hopeless = todo[replicas[todo] >= MAX_REPLICAS]
        if len(hopeless):
            raise CatalogueError(
                catalogue.source,
                [
                    f"row {i + 1}: adapter {catalogue.names[i]!r} fits no server, not even as "
                    f"{MAX_REPLICAS} replicas"
                    for i in hopeless
                ],
            )
        replicas[todo] = np.maximum(replicas[todo] + 1, (replicas[todo] * 1.1).astype(np.int64))
    return Demand.of(whole.rate_rps, whole.rank, whole.input_tokens, whole.output_tokens, replicas)


def _checked(
    model: MaxpackModel | SteadyStateModel | None,
    profile: ServerProfile,
    settings: PlacementSettings,
) -> MaxpackModel | SteadyStateModel:
    if model is None:
        return SteadyStateModel()
    if isinstance(model, MaxpackModel):
        card = model.card
        if card.profile_fingerprint != profile.fingerprint():
            raise PlacementError(
                f"the capacity model was fitted for {card.profile} "
                f"({card.profile_fingerprint}), not for {profile.name} ({profile.fingerprint()}); "
                "simulate new traces and fit it again"
            )
        if card.ttft_slo_ms != settings.ttft_slo_ms:
            raise PlacementError(
                f"the capacity model was fitted for a time to first token of "
                f"{card.ttft_slo_ms:g} ms, not {settings.ttft_slo_ms:g} ms; fit it for that"
            )
    return model


def _checked_servers(
    found: Assignment,
    demand: Demand,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    capacity: Capacity,
    settings: PlacementSettings,
    lengths: Lengths,
    report: Progress,
) -> tuple[Assignment, tuple[PlannedServer, ...]]:
    """Check every server in the twin and relieve those that fail, until none does."""
    servers = planned_servers(found, demand, catalogue, profile, capacity)
    if settings.check_duration_s == 0:
        return found, servers
    rule = HealthRule(ttft_slo_ms=settings.ttft_slo_ms)
    passed: set[Any] = set()
    for round_ in range(REPAIR_ROUNDS):
        todo = [i for i, server in enumerate(servers) if _content(server) not in passed]
        total = len(servers)
        report("check", total - len(todo), total)
        checks = check_servers(
            [servers[i] for i in todo],
            profile,
            catalogue,
            [settings.seed + i for i in todo],
            settings.check_duration_s,
            rate_factor=1 + settings.headroom,
            rule=rule,
            lengths=lengths,
            workers=settings.workers,
        )
        failed = [i for i, check in zip(todo, checks, strict=True) if not check.health.healthy]
        passed |= {_content(servers[i]) for i in todo if i not in failed}
        report("check", total - len(failed), total)
        if not failed:
            return found, servers
        reasons = {c.server: c.health.reason for c in checks if not c.health.healthy}
        # Each round takes more, so that the rounds come to an end.
        relief = FIRST_RELIEF * 2 ** (round_ // 2)
        found = relieve(found, np.array(failed), demand, capacity, part=min(relief, 0.5))
        servers = planned_servers(found, demand, catalogue, profile, capacity)
    raise PlacementError(
        f"after {REPAIR_ROUNDS} rounds of repair these servers still fail in the twin: "
        + "; ".join(f"{name} {reason}" for name, reason in list(reasons.items())[:5])
    )


def planned_servers(
    found: Assignment,
    demand: Demand,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    capacity: Capacity,
    names: Sequence[str] | None = None,
) -> tuple[PlannedServer, ...]:
    """The assignment written out; replicas of one adapter on one server become one share."""
    sets = demand.sums(found.server, found.servers)
    fluid = fluid_features(sets, capacity.options, found.rows)
    order = np.argsort(found.server, kind="stable")
    edges = np.searchsorted(found.server[order], np.arange(found.servers + 1))
    servers = []
    for i in range(found.servers):
        shares: dict[int, float] = {}
        for part in order[edges[i] : edges[i + 1]]:
            adapter = int(demand.adapter[part])
            shares[adapter] = shares.get(adapter, 0.0) + float(demand.share[part])
        config = capacity.options.config(int(found.rows[i]), len(shares))
        servers.append(
            PlannedServer(
                name=names[i] if names is not None else f"{profile.base_model}-{i:04d}",
                base_model=profile.base_model,
                config={
                    "max_loras": config.max_loras,
                    "max_cpu_loras": config.max_cpu_loras,
                    "max_lora_rank": config.max_lora_rank,
                    "max_num_seqs": config.max_num_seqs,
                    "max_num_batched_tokens": config.max_num_batched_tokens,
                },
                adapters=tuple(
                    AdapterShare(str(catalogue.names[a]), min(s, 1.0)) for a, s in shares.items()
                ),
                predicted=_predicted(i, sets, fluid[i], found),
            )
        )
    return tuple(servers)


def _predicted(i: int, sets: SetSums, fluid: np.ndarray, found: Assignment) -> dict[str, Any]:
    """What is expected of one server at the catalogue's rates."""
    values = dict(zip(FLUID_FEATURES, fluid.tolist(), strict=True))
    return {
        "rate_rps": round(float(sets.column("rate_rps")[i]), 4),
        "offered_tps": round(float(sets.column("input_tps")[i] + sets.column("output_tps")[i]), 1),
        "starvation_risk": round(float(found.risk[i]), 5),
        "fill": round(values["fill"], 4),
        "kv_fraction": round(values["kv_fraction"], 4),
        "adapters_in_batch": round(values["adapters_in_batch"], 1),
        "itl_ms": round(values["step_ms"], 1),
    }


def _content(server: PlannedServer) -> Any:
    return tuple(sorted(server.config.items())), server.adapters


def _silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
