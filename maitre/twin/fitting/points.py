"""Measurement points and the requests that each sends.

A *burst* sends all its requests at once: while all of them decode, the gaps between tokens are
step times of a known batch. A *switch* asks adapters one after the other, more of them than there
are slots, so that each answer waits for its adapter. A *load* is Poisson, open loop: requests go
out when they are due, whatever the server does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maitre.twin.errors import require

Kind = Literal["warm_up", "burst", "switch", "load"]
Role = Literal["fit", "validation"]

BASE = ""
"""The adapter name of a request that goes to the base model."""


@dataclass(frozen=True)
class Point:
    """One thing to measure.

    `adapters` are asked in turn (`BASE` for the base model); `requests` so many in all, or, of a
    load, as many as arrive in `duration_s` at `rate_rps`. Lengths of a load are exponential around
    the means, a burst's and a switch's are fixed. A burst or switch may last `duration_s` at most.
    """

    name: str
    kind: Kind
    role: Role
    adapters: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    requests: int = 0
    rate_rps: float = 0.0
    duration_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.adapters) > 0, f"point {self.name}: it has no adapters")
        require(self.input_tokens >= 1, f"point {self.name}: input_tokens is below 1")
        require(self.output_tokens >= 1, f"point {self.name}: output_tokens is below 1")
        require(self.duration_s > 0, f"point {self.name}: duration_s is not positive")
        if self.kind == "load":
            require(self.rate_rps > 0, f"point {self.name}: rate_rps is not positive")
        else:
            require(self.requests >= 1, f"point {self.name}: it sends no request")


@dataclass(frozen=True)
class PlannedRequest:
    """A request: when it is due after the point's start, to whom, and how long."""

    due_s: float
    adapter: str
    input_tokens: int
    output_tokens: int
    seed: int


def planned_requests(point: Point, max_total_tokens: int) -> list[PlannedRequest]:
    """Return the requests of a point, by due time; the same point gives the same ones.

    No request is longer than `max_total_tokens`, prompt and answer together.
    """
    random = np.random.default_rng([point.seed, len(point.adapters), point.input_tokens])
    if point.kind == "load":
        return _poisson(point, max_total_tokens, random)
    seeds = random.integers(1, 1 << 30, point.requests)
    outputs = min(point.output_tokens, max_total_tokens - 1)
    inputs = min(point.input_tokens, max_total_tokens - outputs)
    return [
        PlannedRequest(0.0, point.adapters[i % len(point.adapters)], inputs, outputs, int(seed))
        for i, seed in enumerate(seeds)
    ]


def _poisson(
    point: Point, max_total_tokens: int, random: np.random.Generator
) -> list[PlannedRequest]:
    count = int(point.rate_rps * point.duration_s * 2 + 50)
    due = np.cumsum(random.exponential(1.0 / point.rate_rps, count))
    due = due[due < point.duration_s]
    inputs = _lengths(random, point.input_tokens, len(due), max_total_tokens // 2)
    outputs = _lengths(random, point.output_tokens, len(due), max_total_tokens // 2)
    who = random.integers(0, len(point.adapters), len(due))
    seeds = random.integers(1, 1 << 30, len(due))
    return [
        PlannedRequest(float(d), point.adapters[int(w)], int(i), int(o), int(s))
        for d, w, i, o, s in zip(due, who, inputs, outputs, seeds, strict=True)
    ]


def _lengths(random: np.random.Generator, mean: int, count: int, most: int) -> np.ndarray:
    """Return whole lengths: a floor of a quarter of the mean, and an exponential above it."""
    floor = 0.25 * mean
    drawn = floor + random.exponential(max(mean - floor, 0.0), count)
    return np.clip(np.rint(drawn), 1, most).astype(int)


def ranks_of(point: Point, ranks: Mapping[str, int]) -> dict[str, int]:
    """Return the ranks of a point's adapters; the base model has none."""
    return {name: ranks[name] for name in point.adapters if name != BASE}
