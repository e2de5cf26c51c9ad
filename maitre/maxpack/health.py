"""When a server is healthy: it delivers what is offered and no adapter waits too long.

The papers (arXiv 2508.08343, 2602.24044) call a server starved when its throughput is under 90 %
of the offered load. That misses the worst case: a server can deliver 94 % of its load while some
adapters wait minutes for a slot. So time to first token counts too, of each adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.twin import SimulationResult

DEFAULT_TTFT_SLO_MS = 10_000.0


@dataclass(frozen=True)
class HealthRule:
    """Healthy: not starved by the papers' rule, and TTFT p99 within `ttft_slo_ms`.

    The latency rule holds for the server and for each adapter with at least `min_requests`
    requests in the run; of fewer, a 99th percentile says nothing.
    """

    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    min_requests: int = 100


@dataclass(frozen=True)
class Health:
    """A verdict with its reasons.

    `worst_ttft_p99_ms` is the largest p99 over the server and its adapters with enough requests
    (infinite when such an adapter got no answer at all); `slow_adapters` those over the SLO.
    """

    healthy: bool
    out_of_memory: bool
    starved: bool
    throughput_ratio: float
    ttft_p99_ms: float
    worst_ttft_p99_ms: float
    slow_adapters: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why the server is unhealthy, in words; empty when it is healthy."""
        if self.healthy:
            return ""
        if self.out_of_memory:
            return "runs out of memory at start"
        if self.starved:
            return f"delivers {100 * self.throughput_ratio:.0f} % of the offered load"
        slow = f", {len(self.slow_adapters)} adapters over the limit" if self.slow_adapters else ""
        return f"time to first token p99 {self.worst_ttft_p99_ms / 1000:.1f} s{slow}"


def judge(result: SimulationResult, rule: HealthRule) -> Health:
    """Return the verdict on one simulated server."""
    if result.out_of_memory:
        return Health(False, True, True, 0.0, np.inf, np.inf, ())
    columns = result.adapter_columns()
    counted = np.asarray(columns["offered"]) >= rule.min_requests
    p99 = np.asarray(columns["ttft_p99_ms"], dtype=np.float64)
    p99 = np.where(np.isfinite(p99), p99, np.inf)
    slow = counted & (p99 > rule.ttft_slo_ms)
    of_server = result.ttft_ms.p99 if result.completed else (np.inf if result.offered else 0.0)
    worst = max(float(of_server), float(p99[counted].max(initial=0.0)))
    names = columns["adapter"]
    return Health(
        healthy=not result.starved and worst <= rule.ttft_slo_ms,
        out_of_memory=False,
        starved=result.starved,
        throughput_ratio=float(result.throughput_ratio),
        ttft_p99_ms=float(of_server),
        worst_ttft_p99_ms=worst,
        slow_adapters=tuple(names[i] for i in np.flatnonzero(slow)),
    )
