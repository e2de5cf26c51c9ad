"""What a simulation found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maitre.twin.kernel.state import (
    ADAPTER_BIN_RATIO,
    BIN_RATIO,
    FIRST_BIN_MS,
)

STARVATION_RATIO = 0.9


@dataclass(frozen=True)
class LatencySummary:
    """A latency's mean and quantiles in ms (NaN when nothing was measured)."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, eq=False)
class SimulationResult:
    """Outcome of one simulated run.

    Throughput and load count input + output tokens per second; throughput those of requests that
    completed within the run, load those of all arrivals, lost ones included. A server that is
    `out_of_memory` never started: it completes nothing and counts as starved.
    """

    duration_s: float
    out_of_memory: bool
    out_of_memory_reason: str | None
    kv_cache_tokens: int
    offered: int
    completed: int
    lost: int
    unservable: int
    throughput_tps: float
    offered_tps: float
    input_tps: float
    output_tps: float
    preemptions: int
    ttft_ms: LatencySummary
    itl_ms: LatencySummary
    running_mean: float
    running_max: int
    waiting_mean: float
    waiting_max: int
    active_adapters_mean: float
    active_adapters_max: int
    kv_usage_mean: float
    kv_usage_max: float
    adapter_loads: int
    adapter_loads_from_disk: int
    steps: int
    events: int
    in_flight_end: int
    metric_series: float
    scrape_s: float
    chunk_gap_share: float
    warnings: tuple[str, ...]
    trace: NDArray[Any]
    _timeline: NDArray[np.float64]
    _by_adapter: dict[str, Any]

    @property
    def throughput_ratio(self) -> float:
        """Return throughput over load; 1 when nothing was offered to a server that started."""
        if self.offered_tps == 0:
            return 0.0 if self.out_of_memory else 1.0
        return self.throughput_tps / self.offered_tps

    @property
    def starved(self) -> bool:
        """Return whether throughput is under 90 % of what is offered.

        Offered load counts the tokens of the lengths drawn, all of which a completed request
        yields. The rule of the measured runs counts the tokens asked for, while answers may stop
        earlier (0.4 % (Llama) and 2.0 % (Qwen) fewer tokens), so that a server near the threshold
        can starve by that rule and not by this one; `calibration.calibrate.comparison_row` applies
        the factor where both are compared.
        """
        return self.throughput_ratio < STARVATION_RATIO

    def timeline(self) -> Any:
        """Return a frame: `t_s, running, waiting, kv_usage, active_adapters, throughput_tps`."""
        import pandas as pd

        table = self._timeline
        blocks = max(self._by_adapter["total_blocks"], 1)
        step_s = np.diff(table[:, 0], prepend=np.nan)
        done = np.diff(table[:, 5], prepend=np.nan)
        return pd.DataFrame(
            {
                "t_s": table[:, 0],
                "running": table[:, 1].astype(np.int64),
                "waiting": table[:, 2].astype(np.int64),
                "kv_usage": table[:, 3] / blocks,
                "active_adapters": table[:, 4].astype(np.int64),
                "throughput_tps": done / step_s,
            }
        )

    def adapter_columns(self) -> dict[str, Any]:
        """Return the columns of `by_adapter` as arrays, in the order of the workload's adapters."""
        raw = self._by_adapter
        completed = raw["completed"]
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "adapter": raw["names"],
                "rank": raw["ranks"],
                "rate_rps": raw["rates"],
                "offered": raw["offered"],
                "completed": completed,
                "offered_tps": raw["tokens_offered"] / self.duration_s,
                "throughput_tps": raw["tokens_done"] / self.duration_s,
                "throughput_ratio": np.where(
                    raw["tokens_offered"] > 0,
                    raw["tokens_done"] / np.maximum(raw["tokens_offered"], 1),
                    1.0,
                ),
                "ttft_mean_ms": 1e3 * raw["ttft_sum_s"] / completed,
                "latency_mean_ms": 1e3 * raw["latency_sum_s"] / completed,
                "ttft_p50_ms": raw["ttft_p50_ms"],
                "ttft_p99_ms": raw["ttft_p99_ms"],
            }

    def by_adapter(self) -> Any:
        """Return a data frame, one row per adapter.

        Columns: `adapter, rank, rate_rps, offered, completed, offered_tps, throughput_tps,
        throughput_ratio, ttft_mean_ms, latency_mean_ms, ttft_p50_ms, ttft_p99_ms` (the last two
        to 4 %).
        """
        import pandas as pd

        return pd.DataFrame(self.adapter_columns())

    def summary(self) -> dict[str, Any]:
        """Return the figures that `--json` prints."""
        return {
            "out_of_memory": self.out_of_memory,
            "out_of_memory_reason": self.out_of_memory_reason,
            "kv_cache_tokens": self.kv_cache_tokens,
            "starved": self.starved,
            "throughput_tps": self.throughput_tps,
            "offered_tps": self.offered_tps,
            "throughput_ratio": self.throughput_ratio,
            "offered": self.offered,
            "completed": self.completed,
            "lost": self.lost,
            "unservable": self.unservable,
            "preemptions": self.preemptions,
            "ttft_ms": vars(self.ttft_ms),
            "itl_ms": vars(self.itl_ms),
            "running_mean": self.running_mean,
            "waiting_mean": self.waiting_mean,
            "active_adapters_mean": self.active_adapters_mean,
            "kv_usage_mean": self.kv_usage_mean,
            "adapter_loads": self.adapter_loads,
            "adapter_loads_from_disk": self.adapter_loads_from_disk,
            "duration_s": self.duration_s,
            "warnings": list(self.warnings),
        }


def bins_quantile(bins: NDArray[np.int64], share: float, ratio: float = BIN_RATIO) -> float:
    """Return a quantile (ms) of a logarithmic histogram, interpolated within its bin."""
    total = int(bins.sum())
    if total == 0:
        return float("nan")
    cumulative = np.cumsum(bins)
    target = share * total
    place = int(np.searchsorted(cumulative, target))
    if place == 0:
        return FIRST_BIN_MS
    below = cumulative[place - 1]
    part = (target - below) / max(int(bins[place]), 1)
    return float(FIRST_BIN_MS * ratio ** (place - 1 + part))


def row_quantiles(bins: NDArray[np.int32], share: float) -> NDArray[np.float64]:
    """Return a quantile (ms) of each row's coarse histogram: the middle of its bin."""
    cumulative = np.cumsum(bins, axis=1, dtype=np.int64)
    total = cumulative[:, -1]
    place = (cumulative < (share * total)[:, None]).sum(axis=1)
    middle = FIRST_BIN_MS * ADAPTER_BIN_RATIO ** (place - 0.5)
    return np.where(total > 0, middle, np.nan)
