"""Measured runs as simulations of the same server under the same load."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.twin.lengths import Lengths
from maitre.twin.server import ServerConfig
from maitre.twin.workload import AdapterLoad, Workload


@dataclass(frozen=True)
class Traffic:
    """What was sent in all runs of a base model: means of the tokens of completed requests."""

    lengths: str
    mean_input_tokens: float
    mean_output_tokens: float


def usable(runs: Any) -> Any:
    """Return the runs that measured the server: served, not contaminated, its memory its own."""
    good = (runs["status"] == "ok") & ~runs["contaminated"] & ~runs["kv_anomaly"]
    return runs[good].reset_index(drop=True)


def numbers(cell: Any) -> list[float]:
    """Return the numbers of a cell that lists them, as text or as an array."""
    if isinstance(cell, str):
        return [float(part) for part in cell.replace(",", " ").split()]
    return [float(part) for part in np.atleast_1d(cell)]


def adapters_of(run: Any, seed: int = 1) -> list[AdapterLoad]:
    """Return a run's adapters: each class's count is exact, ranks and rates are drawn."""
    ranks = numbers(run["rank_classes"])
    counts = [int(count) for count in numbers(run["adapters_per_rate_class"])]
    rates = np.random.default_rng(seed).permutation(
        np.repeat(numbers(run["rate_classes_rps"]), counts)
    )
    return [
        AdapterLoad(f"a{place}", int(ranks[place % len(ranks)]), float(rate))
        for place, rate in enumerate(rates)
    ]


def simulation_of(run: Any, traffic: Traffic) -> tuple[ServerConfig, Workload]:
    """Return the server and the workload of a measured run.

    The load generator's limit of requests in flight is taken from the run only where it was hit;
    everything about the server comes from its launch options.
    """
    server = ServerConfig(
        max_loras=int(run["max_loras"]),
        max_cpu_loras=max(int(run["max_cpu_loras"]), int(run["max_loras"])),
        max_lora_rank=int(run["max_lora_rank"]),
    )
    workload = Workload(
        adapters=adapters_of(run),
        lengths=Lengths.named(
            traffic.lengths, traffic.mean_input_tokens, traffic.mean_output_tokens
        ),
        duration_s=float(run["duration_s"]),
        max_in_flight=int(run["inflight_max"]) if run["client_collapsed"] else None,
    )
    return server, workload
