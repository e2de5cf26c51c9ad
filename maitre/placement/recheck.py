"""Simulates the servers of a changed plan, of which nothing is moved any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maitre.maxpack.health import HealthRule
from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.check import check_servers
from maitre.placement.plan import PlacementPlan
from maitre.placement.settings import PlacementSettings
from maitre.progress import Progress, ignore_progress
from maitre.twin import Lengths, ServerProfile


def rechecked(
    plan: PlacementPlan,
    profile: ServerProfile,
    catalogue: AdapterCatalogue,
    settings: PlacementSettings,
    *,
    lengths: Lengths | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """The plan with the twin's verdict in its evidence: `servers_failed`, from name to reason.

    As `check_plan`: server i for `check_duration_s` under seed + i, at rates with the headroom on
    top. Of more than `check_servers` servers a quarter of them are the riskiest by the model, the
    rest spread over the plan. Servers that fail stay as they are: relieving them takes moves.

    Raises:
        CatalogueError: the plan holds adapters that the catalogue does not know.
    """
    if settings.check_duration_s == 0:
        return plan
    places = _sample(plan, settings.check_servers)
    report = on_progress or ignore_progress
    checks = check_servers(
        [plan.servers[i] for i in places],
        profile,
        catalogue,
        [settings.seed + i for i in places],
        settings.check_duration_s,
        rate_factor=1 + settings.headroom,
        rule=HealthRule(ttft_slo_ms=settings.ttft_slo_ms),
        lengths=lengths or default_lengths(),
        workers=settings.workers,
        on_progress=lambda done, total, _="": report(done, total, "check"),
    )
    failed = {check.server: check.health.reason for check in checks if not check.health.healthy}
    shown = {
        "servers_checked": len(checks),
        "servers_failed": failed,
        "rate_factor": 1 + settings.headroom,
        "duration_s": settings.check_duration_s,
        "seed": settings.seed,
    }
    return replace(plan, evidence={**plan.evidence, **shown})


def _sample(plan: PlacementPlan, most: int) -> list[int]:
    """Which servers to simulate, at most so many."""
    if plan.gpus <= most:
        return list(range(plan.gpus))
    risks = np.array([float(s.predicted.get("starvation_risk", 0.0)) for s in plan.servers])
    order = np.argsort(-risks, kind="stable")
    riskiest, others = order[: -(-most // 4)], np.sort(order[-(-most // 4) :])
    spread = others[np.linspace(0, len(others) - 1, most - len(riskiest)).round().astype(int)]
    return sorted({*riskiest.tolist(), *spread.tolist()})
