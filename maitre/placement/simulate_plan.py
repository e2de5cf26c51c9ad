"""Replays a plan in the twin: whether every server keeps up, and every adapter on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.maxpack.health import Health, HealthRule
from maitre.maxpack.options import default_lengths
from maitre.maxpack.simulate_health import simulate_health
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.progress import Progress
from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload


@dataclass(frozen=True)
class ServerCheck:
    """One server's replay: its verdict and the figures behind it."""

    server: str
    health: Health
    throughput_tps: float
    offered_tps: float
    kv_usage_max: float
    preemptions: int

    def to_dict(self) -> dict[str, Any]:
        """Return one row of a report."""
        health = self.health
        return {
            "server": self.server,
            "healthy": health.healthy,
            "reason": health.reason,
            "starved": health.starved,
            "out_of_memory": health.out_of_memory,
            "throughput_tps": round(self.throughput_tps, 1),
            "offered_tps": round(self.offered_tps, 1),
            "throughput_ratio": round(health.throughput_ratio, 4),
            "ttft_p99_ms": _number(health.ttft_p99_ms),
            "worst_adapter_ttft_p99_ms": _number(health.worst_ttft_p99_ms),
            "slow_adapters": len(health.slow_adapters),
            "kv_usage_max": round(self.kv_usage_max, 4),
            "preemptions": self.preemptions,
        }


@dataclass(frozen=True)
class PlanCheck:
    """The replay of a plan, server by server, in the plan's order."""

    servers: tuple[ServerCheck, ...]
    duration_s: float
    seed: int
    rate_factor: float

    @property
    def passed(self) -> bool:
        """Whether every server is healthy."""
        return not self.unhealthy

    @property
    def unhealthy(self) -> tuple[ServerCheck, ...]:
        """The servers that are not."""
        return tuple(server for server in self.servers if not server.health.healthy)

    @property
    def starved(self) -> tuple[ServerCheck, ...]:
        """The servers that starve by the papers' rule."""
        return tuple(server for server in self.servers if server.health.starved)

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        return {
            "passed": self.passed,
            "servers_unhealthy": len(self.unhealthy),
            "servers_starved": len(self.starved),
            "duration_s": self.duration_s,
            "seed": self.seed,
            "rate_factor": self.rate_factor,
            "servers": [server.to_dict() for server in self.servers],
        }


def check_plan(
    plan: PlacementPlan,
    profile: ServerProfile,
    catalogue: AdapterCatalogue,
    seed: int = 0,
    duration_s: float = 3600.0,
    *,
    rate_factor: float = 1.0,
    rule: HealthRule | None = None,
    lengths: Lengths | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> PlanCheck:
    """Simulate every server of the plan for `duration_s` under the catalogue's rates.

    From a warm start (`maitre.maxpack.simulate_health`). Rates are multiplied by `rate_factor`;
    server i runs under seed + i.

    Raises:
        CatalogueError: the plan holds adapters that the catalogue does not know.
    """
    checks = check_servers(
        plan.servers,
        profile,
        catalogue,
        [seed + i for i in range(len(plan.servers))],
        duration_s,
        rate_factor=rate_factor,
        rule=rule or HealthRule(),
        lengths=lengths or default_lengths(),
        workers=workers,
        on_progress=on_progress,
    )
    return PlanCheck(tuple(checks), duration_s, seed, rate_factor)


def check_servers(
    servers: Iterable[PlannedServer],
    profile: ServerProfile,
    catalogue: AdapterCatalogue,
    seeds: list[int],
    duration_s: float,
    *,
    rate_factor: float,
    rule: HealthRule,
    lengths: Lengths,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[ServerCheck]:
    """Simulate some servers, one seed each.

    Raises:
        CatalogueError: a server holds adapters that the catalogue does not know.
    """
    servers = list(servers)
    place = {str(name): i for i, name in enumerate(catalogue.names)}
    _check_known(servers, catalogue, place)
    runs = [
        (
            ServerConfig(**server.config.limits()),
            Workload(
                adapters=_loads(server, catalogue, place, rate_factor),
                lengths=lengths,
                duration_s=duration_s,
            ),
        )
        for server in servers
    ]
    found = simulate_health(profile, runs, seeds, rule, workers=workers, on_progress=on_progress)
    return [
        ServerCheck(
            server.name,
            measured.health,
            measured.throughput_tps,
            measured.offered_tps,
            measured.kv_usage_max,
            measured.preemptions,
        )
        for server, measured in zip(servers, found, strict=True)
    ]


def server_loads(server: PlannedServer, catalogue: AdapterCatalogue) -> list[AdapterLoad]:
    """Return the adapters of a planned server, each at its share of the catalogue's rate.

    Raises:
        CatalogueError: the server holds adapters that the catalogue does not know.
    """
    place = {str(name): i for i, name in enumerate(catalogue.names)}
    _check_known([server], catalogue, place)
    return _loads(server, catalogue, place, 1.0)


def _check_known(
    servers: Iterable[PlannedServer], catalogue: AdapterCatalogue, place: dict[str, int]
) -> None:
    unknown = [
        f"server {server.name!r} holds {held.adapter!r}, which is in no row"
        for server in servers
        for held in server.adapters
        if held.adapter not in place
    ]
    if unknown:
        raise CatalogueError(catalogue.source, unknown)


def _loads(
    server: PlannedServer, catalogue: AdapterCatalogue, place: dict[str, int], factor: float
) -> list[AdapterLoad]:
    loads = []
    for held in server.adapters:
        i = place[held.adapter]
        loads.append(
            AdapterLoad(
                held.adapter,
                int(catalogue.ranks[i]),
                float(catalogue.rates_rps[i]) * held.share * factor,
                _finite_or_none(catalogue.mean_input_tokens[i]),
                _finite_or_none(catalogue.mean_output_tokens[i]),
            )
        )
    return loads


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float) -> float | None:
    return round(float(value), 1) if np.isfinite(value) else None
