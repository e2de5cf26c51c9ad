"""The relaxation behind the lower bound: rates of adapters, types of server, what uses what."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maitre.maxpack.options import ServerOptions
from maitre.placement.demand import Demand
from maitre.twin.kernel.step_time import step_s

SHORTEST_STEP_S, LONGEST_STEP_S = 0.012, 3.0
_WIDE_RATIO = 1.5
# Nodes in all and of a class of adapters alike in tier and lengths; classes at most.
_MOST_NODES, _FEWEST_NODES, _MOST_CLASSES = 54, 3, 18
_MOST_EACH = 1_200
_ROUNDINGS = (1.01, 1.05, 1.1, 1.2, 1.35, 1.6, 2.0, 3.0, 5.0, 1e9)
_NO_RATE_RPS = 1e-9
# Where the planes touch the step cost: sequences, prefill tokens, KV tokens, adapters.
_TOUCHING = ((16.0, 8.0, 4_000.0, 4.0), (600.0, 900.0, 200_000.0, 64.0))


@dataclass(frozen=True)
class Nodes:
    """Rates at which adapters are valued: `weight` adapters' worth at each node.

    An adapter between two nodes of its rank tier and lengths counts for them in parts, as in linear
    interpolation. What an adapter uses is concave in its rate and 0 at rate 0, so a worth that
    is linear between the nodes and nowhere above the use at them is nowhere above it at all.
    """

    weight: np.ndarray
    tier: np.ndarray
    rate: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @classmethod
    def of(cls, demand: Demand, options: ServerOptions) -> tuple[Nodes, bool]:
        """Return the nodes of a demand (one part each), and whether they stand for it exactly.

        Where lengths are many, adapters of similar lengths share nodes at their means: good for
        finding worths, but a bound has to be summed over `each`.
        """
        demand = _asked_for(demand)
        tier = options.rank_tier(demand.rank)
        for ratio in _ROUNDINGS:
            inputs, outputs = (
                _rounded_down(tokens, ratio)
                for tokens in (demand.input_tokens, demand.output_tokens)
            )
            columns = np.column_stack([tier, inputs, outputs])
            classes, which = np.unique(columns, axis=0, return_inverse=True)
            if len(classes) <= _MOST_CLASSES:
                break
        exact = ratio == _ROUNDINGS[0]
        each = max(_MOST_NODES // max(len(classes), 1), _FEWEST_NODES)
        found = []
        for k, (of_tier, ins, outs) in enumerate(classes):
            mine = which == k
            rates, weights = _interpolation(demand.rate_rps[mine], each)
            if not exact:
                ins = np.average(demand.input_tokens[mine], weights=demand.rate_rps[mine])
                outs = np.average(demand.output_tokens[mine], weights=demand.rate_rps[mine])
            same = np.ones(len(rates))
            found.append(np.column_stack([weights, of_tier * same, rates, ins * same, outs * same]))
        table = np.concatenate(found) if found else np.empty((0, 5))
        return cls(table[:, 0], table[:, 1].astype(np.int64), *table[:, 2:].T), exact

    def at_rates(self, factor: float) -> Nodes:
        """Return the same adapters with all rates multiplied by `factor`."""
        return replace(self, rate=self.rate * factor)

    @classmethod
    def each(cls, demand: Demand, options: ServerOptions) -> Nodes:
        """Return a node for each adapter, equal ones merged: rates and lengths are rounded down.

        They are rounded by as little as leaves `_MOST_EACH`.
        """
        demand = _asked_for(demand)
        tier = options.rank_tier(demand.rank)
        for ratio in _ROUNDINGS:
            columns = [
                _rounded_down(values, ratio)
                for values in (demand.rate_rps, demand.input_tokens, demand.output_tokens)
            ]
            rows, count = np.unique(np.column_stack([tier, *columns]), axis=0, return_counts=True)
            if len(rows) <= _MOST_EACH:
                break
        return cls(count.astype(np.float64), rows[:, 0].astype(np.int64), *rows[:, 1:].T)


def _asked_for(demand: Demand) -> Demand:
    """Return the nodes without adapters that have no requests: no limit counts those."""
    return demand.take(np.flatnonzero(demand.rate_rps > _NO_RATE_RPS))


def _interpolation(rates: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return up to `most` nodes among these rates, and the rates' weights at them."""
    distinct = np.unique(rates)
    if len(distinct) > most:
        # Even in the logarithm as far as there are rates: the worth is about linear for cold
        # adapters and bends with the heat.
        ladder = np.geomspace(distinct[0], distinct[-1], most)
        picked = np.unique(np.searchsorted(distinct, ladder).clip(0, len(distinct) - 1))
        distinct = distinct[np.union1d(picked, [0, len(distinct) - 1])]
    if len(distinct) == 1:
        return distinct, np.array([float(len(rates))])
    above = np.searchsorted(distinct, rates).clip(1, len(distinct) - 1)
    low, high = distinct[above - 1], distinct[above]
    part = (rates - low) / (high - low)
    weights = np.bincount(above - 1, 1 - part, len(distinct))
    return distinct, weights + np.bincount(above, part, len(distinct))


@dataclass(frozen=True)
class Types:
    """Server types: a configuration row and an interval of step times each.

    `few_slots`: fewer slots than adapters, so that requests wait for one, up to `slot_wait_s`.
    """

    row: np.ndarray
    shortest_s: np.ndarray
    longest_s: np.ndarray
    options: ServerOptions
    few_slots: np.ndarray
    slot_wait_s: float
    planes: np.ndarray
    jumps_s: np.ndarray

    @classmethod
    def of(
        cls,
        options: ServerOptions,
        ratio: float,
        rows: np.ndarray,
        slot_wait_s: float,
        steps_s: tuple[float, float] = (SHORTEST_STEP_S, LONGEST_STEP_S),
    ) -> Types:
        """Return these configurations, each with intervals of step time that grow by `ratio`.

        Each configuration occurs twice: with a slot for every adapter, and with fewer slots.
        """
        edges = _edges(*steps_s, ratio)
        row = np.tile(np.repeat(rows, len(edges) - 1), 2)
        return cls(
            row,
            np.tile(edges[:-1], 2 * len(rows)),
            np.tile(edges[1:], 2 * len(rows)),
            options,
            np.repeat([False, True], len(row) // 2),
            slot_wait_s,
            _planes(options)[row],
            _prefill_jumps(options)[row],
        )

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: np.ndarray) -> Types:
        """Return some of the types."""
        return Types(
            self.row[which],
            self.shortest_s[which],
            self.longest_s[which],
            self.options,
            self.few_slots[which],
            self.slot_wait_s,
            self.planes[which],
            self.jumps_s[which],
        )

    @property
    def rank(self) -> np.ndarray:
        """The rank that each type's slots are sized for."""
        return self.options.max_lora_rank[self.row]

    def limits(self) -> np.ndarray:
        """Return the time by each plane, KV cache, slots, batched tokens: (types, 5).

        Time may be negative: no server.
        """
        fixed = self.planes[:, :, 0]
        room = self.options.limits[self.row]
        return np.column_stack([1.0 - fixed / self.longest_s[:, None], room[:, [0, 1, 3]]])

    def use(self, nodes: Nodes) -> np.ndarray:
        """Return the least use of each limit by an adapter at each node: (types, nodes, limits)."""
        rate, outputs = nodes.rate, nodes.rate * nodes.outputs
        moments = self.options.moments
        kv = outputs * (
            moments.input_output * nodes.inputs
            + 0.5 * moments.output_output * nodes.outputs
            + 0.5 * (moments.block_tokens - 1)
        )
        active_short = self._active_part(self.shortest_s, nodes)
        active_long = self._active_part(self.longest_s, nodes)
        # With a slot for every adapter each takes one, asked for or not.
        slots = np.where(self.few_slots[:, None], active_short, 1.0)
        times = []
        for plane in np.moveaxis(self.planes, 1, 0):
            _, sequence, prefill, kv_token, adapter = (column[:, None] for column in plane.T)
            per_s = sequence * outputs + prefill * rate * nodes.inputs + kv_token * kv
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
        # A step's tokens: one of each sequence, and what is prefilled.
        tokens = self.shortest_s[:, None] * rate * (nodes.inputs + nodes.outputs)
        return np.stack([*times, self.shortest_s[:, None] * kv, slots, tokens], axis=2)

    def _active_part(self, step_s: np.ndarray, nodes: Nodes) -> np.ndarray:
        """Return the least part of the time in which an adapter is in the batch: (types, nodes).

        Requests that wait for a slot gather meanwhile and share it (`maitre.maxpack.fluid`).
        """
        running_s = np.outer(step_s, nodes.outputs)
        wait_s = np.where(self.few_slots, self.slot_wait_s, 0.0)[:, None]
        windows_s = running_s + wait_s
        return np.asarray(running_s / windows_s * -np.expm1(-nodes.rate * windows_s))


def _edges(shortest_s: float, longest_s: float, ratio: float) -> np.ndarray:
    """Return the ends of the intervals of step time; those of slow servers are wider."""
    found = [shortest_s]
    while found[-1] < longest_s:
        found.append(found[-1] * (ratio if found[-1] < LONGEST_STEP_S else max(ratio, _WIDE_RATIO)))
    return np.array(found)


def _planes(options: ServerOptions) -> np.ndarray:
    """Return the planes that support each step cost: (configurations, planes, 5).

    Columns: constant (s), and seconds per sequence, prefill token, KV token and adapter. The cost's
    jumps (any prefill at all, the graphs' end) only add to it and are left out here.
    """
    planes = np.empty((len(options), len(_TOUCHING), 5))
    for row, cost in enumerate(options.step_costs):
        smooth = cost._replace(lora_over_graph_ms=0.0)
        jump = _prefill_jump(cost)

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
    """Return how much longer a step with any prefill takes than one without, in seconds."""
    return np.array([_prefill_jump(cost) for cost in options.step_costs])


def _prefill_jump(cost: Any) -> float:
    return float(step_s(cost, 1.0, 1.0, 1e-9, 0.0, 1.0) - step_s(cost, 1.0, 1.0, 0.0, 0.0, 1.0))


def _rounded_down(values: np.ndarray, ratio: float) -> np.ndarray:
    """Return positive values rounded down to the smallest times a power of `ratio`."""
    least = values.min(initial=np.inf)
    powers = np.floor(np.log(values / least) / math.log(ratio) + 1e-9)
    return np.asarray(least * ratio**powers)
