"""The relaxation behind the lower bound: groups of adapters, types of server, what uses what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from maitre.maxpack.options import ServerOptions
from maitre.placement.demand import Demand
from maitre.twin.kernel.step_time import step_s

SHORTEST_STEP_S, LONGEST_STEP_S = 0.012, 3.0
_MASTER_RATE_BINS = 12
_RATE_ROUNDING = 1.01
_NO_RATE_RPS = 1e-9
# Where the planes touch the step cost: sequences, prefill tokens, KV tokens, adapters.
_TOUCHING = ((16.0, 8.0, 4_000.0, 4.0), (600.0, 900.0, 200_000.0, 64.0))


@dataclass(frozen=True)
class Groups:
    """Adapters alike: `count` of each, the least rate and lengths of the group, its rank tier."""

    count: np.ndarray
    tier: np.ndarray
    rate: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @classmethod
    def of(cls, demand: Demand, options: ServerOptions) -> Groups:
        """The adapters of a demand (one part each), those alike to 1 % together."""
        # An adapter without requests asks for nothing that the limits count.
        demand = demand.take(np.flatnonzero(demand.rate_rps > _NO_RATE_RPS))
        tier = options.rank_tier(demand.rank)
        columns = [tier, *(_rounded_down(v) for v in _per_part(demand))]
        rows, count = np.unique(np.column_stack(columns), axis=0, return_counts=True)
        return cls(count, rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def merged(self, worth: np.ndarray) -> tuple[Groups, np.ndarray]:
        """Fewer groups at the means of their members, with their mean worth.

        For finding multipliers only: a bound has to be summed over all groups.
        """
        edges = np.unique(np.quantile(self.rate, np.linspace(0, 1, _MASTER_RATE_BINS + 1)))
        place = np.clip(np.searchsorted(edges, self.rate, side="right") - 1, 0, len(edges) - 1)
        _, key = np.unique(np.column_stack([self.tier, place]), axis=0, return_inverse=True)
        count = np.bincount(key, self.count)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.bincount(key, self.count * values) / count

        columns = (self.tier, self.rate, self.inputs, self.outputs)
        return Groups(count, *(mean(column) for column in columns)), mean(worth)


@dataclass(frozen=True)
class Types:
    """Server types: a configuration row and an interval of step times each."""

    row: np.ndarray
    shortest_s: np.ndarray
    longest_s: np.ndarray
    options: ServerOptions
    planes: np.ndarray
    jumps_s: np.ndarray

    @classmethod
    def of(cls, options: ServerOptions, ratio: float, rows: np.ndarray) -> Types:
        """These configurations, each with intervals of step time that grow by `ratio`."""
        steps = math.ceil(math.log(LONGEST_STEP_S / SHORTEST_STEP_S) / math.log(ratio))
        edges = SHORTEST_STEP_S * ratio ** np.arange(steps + 1)
        row = np.repeat(rows, steps)
        return cls(
            row,
            np.tile(edges[:-1], len(rows)),
            np.tile(edges[1:], len(rows)),
            options,
            _planes(options)[row],
            _prefill_jumps(options)[row],
        )

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: np.ndarray) -> Types:
        """Some of the types."""
        return Types(
            self.row[which],
            self.shortest_s[which],
            self.longest_s[which],
            self.options,
            self.planes[which],
            self.jumps_s[which],
        )

    @property
    def rank(self) -> np.ndarray:
        """The rank that each type's slots are sized for."""
        return self.options.max_lora_rank[self.row]

    def limits(self) -> np.ndarray:
        """Time by each plane, KV cache, slots: (types, 4); time may be negative (no server)."""
        fixed = self.planes[:, :, 0]
        room = self.options.limits[self.row]
        return np.column_stack([1.0 - fixed / self.longest_s[:, None], room[:, :2]])

    def use(self, groups: Groups) -> np.ndarray:
        """What one adapter of each group takes of each limit, at least: (types, groups, 4)."""
        rate, outputs = groups.rate, groups.rate * groups.outputs
        moments = self.options.moments
        kv = outputs * (
            moments.input_output * groups.inputs
            + 0.5 * moments.output_output * groups.outputs
            + 0.5 * (moments.block_tokens - 1)
        )
        active_short = -np.expm1(-np.outer(self.shortest_s, outputs))
        active_long = -np.expm1(-np.outer(self.longest_s, outputs))
        times = []
        for plane in np.moveaxis(self.planes, 1, 0):
            _, sequence, prefill, kv_token, adapter = (column[:, None] for column in plane.T)
            per_s = sequence * outputs + prefill * rate * groups.inputs + kv_token * kv
            # A server of rate l has a prefill in 1 - exp(-t l) of its steps. That is concave in
            # l, so up to the largest rate that its time allows it lies above the chord, which
            # is additive.
            fixed = np.minimum(plane[:, 0] / self.longest_s, 0.0)
            most_rps = (1.0 - fixed) / np.min(per_s / np.maximum(rate, 1e-12), axis=1)
            chord = -np.expm1(-self.longest_s * most_rps) / (self.longest_s * most_rps)
            times.append(
                per_s
                + adapter * active_long / self.longest_s[:, None]
                + (self.jumps_s * chord)[:, None] * rate
            )
        return np.stack([*times, self.shortest_s[:, None] * kv, active_short], axis=2)


def _planes(options: ServerOptions) -> np.ndarray:
    """Supporting planes of each configuration's step cost: (configurations, planes, 5).

    Columns: constant (s), and seconds per sequence, prefill token, KV token and adapter. The cost's
    jumps (any prefill at all, the graphs' end) only add to it and are left out here.
    """
    planes = np.empty((len(options), len(_TOUCHING), 5))
    for row, cost in enumerate(options.step_costs):
        smooth = cost._replace(lora_over_graph_ms=0.0)
        jump = _jump(cost)

        def seconds(point: np.ndarray, smooth: Any = smooth, jump: float = jump) -> float:
            return float(step_s(smooth, point[0], *point)) - jump

        for k, touching in enumerate(_TOUCHING):
            point = np.array(touching)
            here = seconds(point)
            slopes = [
                (seconds(point + step) - here) / step.sum()
                for step in np.diag(np.maximum(1e-3 * point, 1e-3))
            ]
            planes[row, k] = [here - float(np.dot(slopes, point)), *slopes]
    return planes


def _prefill_jumps(options: ServerOptions) -> np.ndarray:
    """What a step with any prefill costs more than one with none, in seconds."""
    return np.array([_jump(cost) for cost in options.step_costs])


def _jump(cost: Any) -> float:
    return float(step_s(cost, 1.0, 1.0, 1e-9, 0.0, 1.0) - step_s(cost, 1.0, 1.0, 0.0, 0.0, 1.0))


def _per_part(demand: Demand) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return demand.rate_rps, demand.input_tokens, demand.output_tokens


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """Values rounded down to powers of `_RATE_ROUNDING`: few distinct ones, none too large."""
    some = values > 0
    powers = np.floor(np.log(np.where(some, values, 1.0)) / math.log(_RATE_ROUNDING))
    return np.where(some, _RATE_ROUNDING**powers, 0.0)
