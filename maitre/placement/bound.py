"""A lower bound on the servers that any placement needs, whatever its method.

The relaxation. When its steps take t seconds on average, a server of S slots of rank R spends at
most all of its time, its KV cache, its slots and its sequences (`maitre.maxpack.fluid`):

    sum_i time_i(t) <= 1 - c0/t     sum_i kv_i t <= KV(S, R)     sum_i active_i(t) <= S

The step cost is convex in its averages, so each of its supporting planes c0 + a . averages bounds
the mean step from below (Jensen); two planes make two limits on time. All limits are additive
over the adapters that a server holds. Let every server have a type (t, S, R), let adapters be
divided between types in any parts, and let there be fractions of servers: the fewest servers
are then the value of a linear program of which every real plan is a feasible point.

Weak duality makes the bound exact without trusting a solver. For any multipliers y >= 0 with
y . limits <= 1, a server of a type carries sum_i y . use_i <= 1. With u_i the least y . use_i
over all types whose rank holds adapter i, no server of any type carries more than sum_i u_i = 1,
so servers >= sum_i u_i. Replicas do not help: use_i is concave in the rate and 0 at rate 0.

t is continuous: a type is an interval of it, over which use_i is taken at its least and the
limits at their largest. A set of similar adapters is counted at its lowest rate.

What it rests on: the load lasts (averages, no luck of a short run), arrivals are Poisson, and
servers have a configuration of the `ServerOptions` at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from maitre.maxpack.options import ServerOptions
from maitre.placement.demand import Demand
from maitre.twin.kernel.step_time import step_s

_SHORTEST_STEP_S, _LONGEST_STEP_S = 0.012, 3.0
_COARSE_RATIO, _FINE_RATIO = 1.3, 1.02
_MASTER_SLOTS = 7
_MASTER_RATE_BINS = 12
_RATE_ROUNDING = 1.01
_NO_RATE_RPS = 1e-9
_SHARES = 8
_TYPES_AT_ONCE = 512
# Where the planes touch the step cost: sequences, prefill tokens, KV tokens, adapters.
_TOUCHING = ((16.0, 8.0, 4_000.0, 4.0), (600.0, 900.0, 200_000.0, 64.0))


def lower_bound_servers(demand: Demand, options: ServerOptions) -> int:
    """The bound in whole servers; `demand` has one part an adapter."""
    return max(1, math.ceil(relaxed_servers(demand, options) - 1e-6))


def relaxed_servers(demand: Demand, options: ServerOptions) -> float:
    """The bound before rounding up."""
    groups = _Groups.of(demand, options)
    if not len(groups.count):
        return 0.0
    worth = _worths(groups, _Types.of(options, _COARSE_RATIO, _thinned(options)))
    return _certified(groups, worth, _Types.of(options, _FINE_RATIO, np.arange(len(options))))


@dataclass(frozen=True)
class _Groups:
    """Adapters alike: `count` of each, the least rate and lengths of the group, its rank tier."""

    count: np.ndarray
    tier: np.ndarray
    rate: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @classmethod
    def of(cls, demand: Demand, options: ServerOptions) -> _Groups:
        # An adapter without requests asks for nothing that the limits count.
        demand = demand.take(np.flatnonzero(demand.rate_rps > _NO_RATE_RPS))
        tier = options.rank_tier(demand.rank)
        columns = [tier, *(_rounded_down(v) for v in _per_part(demand))]
        rows, count = np.unique(np.column_stack(columns), axis=0, return_counts=True)
        return cls(count, rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def merged(self, worth: np.ndarray) -> tuple[_Groups, np.ndarray]:
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
        return _Groups(count, *(mean(column) for column in columns)), mean(worth)


@dataclass(frozen=True)
class _Types:
    """Server types: a configuration row and an interval of step times each."""

    row: np.ndarray
    shortest_s: np.ndarray
    longest_s: np.ndarray
    options: ServerOptions
    planes: np.ndarray
    jumps_s: np.ndarray

    @classmethod
    def of(cls, options: ServerOptions, ratio: float, rows: np.ndarray) -> _Types:
        steps = math.ceil(math.log(_LONGEST_STEP_S / _SHORTEST_STEP_S) / math.log(ratio))
        edges = _SHORTEST_STEP_S * ratio ** np.arange(steps + 1)
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

    def take(self, which: np.ndarray) -> _Types:
        return _Types(
            self.row[which],
            self.shortest_s[which],
            self.longest_s[which],
            self.options,
            self.planes[which],
            self.jumps_s[which],
        )

    @property
    def rank(self) -> np.ndarray:
        return self.options.max_lora_rank[self.row]

    def limits(self) -> np.ndarray:
        """Time by each plane, KV cache, slots: (types, 4); time may be negative (no server)."""
        fixed = self.planes[:, :, 0]
        room = self.options.limits[self.row]
        return np.column_stack([1.0 - fixed / self.longest_s[:, None], room[:, :2]])

    def use(self, groups: _Groups) -> np.ndarray:
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


def _worths(groups: _Groups, types: _Types) -> np.ndarray:
    """About what part of a server each group's adapters are worth: the LP's dual values."""
    merged, _ = groups.merged(groups.rate)
    types = types.take(np.all(types.limits()[:, :2] > 0.02, axis=1))
    part = types.use(merged) / types.limits()[:, None, :]
    n_types, n_groups = len(types), len(merged.count)
    # Variables: adapters of each group on each type (where the rank fits), servers of each type.
    kind, group = np.nonzero(types.rank[:, None] >= merged.tier[None, :])
    pairs, kinds = len(kind), part.shape[2]
    rows = np.concatenate(
        [(kind[:, None] * kinds + np.arange(kinds)).ravel(), np.arange(kinds * n_types)]
    )
    columns = np.concatenate(
        [np.repeat(np.arange(pairs), kinds), pairs + np.repeat(np.arange(n_types), kinds)]
    )
    values = np.concatenate([part[kind, group].ravel(), -np.ones(kinds * n_types)])
    uses = csr_matrix((values, (rows, columns)), shape=(kinds * n_types, pairs + n_types))
    placed = csr_matrix(
        (np.ones(pairs), (group, np.arange(pairs))), shape=(n_groups, pairs + n_types)
    )
    solved = linprog(
        np.concatenate([np.zeros(pairs), np.ones(n_types)]),
        A_ub=uses,
        b_ub=np.zeros(kinds * n_types),
        A_eq=placed,
        b_eq=merged.count.astype(float),
        method="highs-ds",
    )
    if solved.status != 0:
        raise RuntimeError(f"the relaxation was not solved: {solved.message}")
    return _interpolated(groups, merged, np.asarray(solved.eqlin.marginals))


def _interpolated(groups: _Groups, merged: _Groups, dual: np.ndarray) -> np.ndarray:
    """Worth per adapter of every group, from those of the merged ones, by log rate."""
    worth = np.empty(len(groups.count))
    for tier in np.unique(groups.tier):
        mine, theirs = groups.tier == tier, merged.tier == tier
        order = np.argsort(merged.rate[theirs])
        rates, values = merged.rate[theirs][order], np.maximum(dual[theirs][order], 1e-12)
        log_rate = np.log(np.maximum(groups.rate[mine], 1e-9))
        worth[mine] = np.exp(np.interp(log_rate, np.log(np.maximum(rates, 1e-9)), np.log(values)))
        # Beyond the outermost the worth goes with the rate, as it does for cold adapters.
        below = groups.rate[mine] < rates[0]
        worth[mine] *= np.where(below, groups.rate[mine] / max(rates[0], 1e-9), 1.0)
    return worth


def _certified(groups: _Groups, worth: np.ndarray, types: _Types) -> float:
    """The bound by weak duality: for every type the best multipliers found for these worths.

    Any multipliers give a bound; a poor choice only makes it weaker, so they are chosen on merged
    groups and applied to all.
    """
    limits = types.limits()
    possible = np.all(limits[:, :2] > 0, axis=1)
    types, limits = types.take(possible), limits[possible]
    merged, merged_worth = groups.merged(worth)
    shares = _simplex(_SHARES, limits.shape[1])
    least = np.full(len(groups.count), np.inf)
    for start in range(0, len(types), _TYPES_AT_ONCE):
        some = types.take(np.arange(start, min(start + _TYPES_AT_ONCE, len(types))))
        limit = limits[start : start + _TYPES_AT_ONCE, None, :]
        holds = some.rank[:, None] >= merged.tier[None, :]
        relative = some.use(merged) / limit / merged_worth[None, :, None]
        relative[~holds] = np.inf
        # For each choice of multipliers, the group that falls shortest of its worth.
        weakest = np.min(relative @ shares.T, axis=1)
        chosen = shares[np.argmax(weakest, axis=1)]
        worths = np.einsum("tgk,tk->tg", some.use(groups) / limit, chosen)
        worths[some.rank[:, None] < groups.tier[None, :]] = np.inf
        least = np.minimum(least, worths.min(axis=0))
    return float(np.sum(groups.count * least))


def _simplex(steps: int, parts: int) -> np.ndarray:
    """Multipliers of that many limits that sum to (just under) 1, on a grid; none quite 0."""
    grid = np.stack(np.meshgrid(*[np.arange(steps + 1)] * (parts - 1), indexing="ij"), -1)
    rows = grid.reshape(-1, parts - 1)
    rows = rows[rows.sum(axis=1) <= steps]
    shares = np.column_stack([rows, steps - rows.sum(axis=1)]) / steps
    return shares.clip(1e-9) / (1 + parts * 1e-9)


def _thinned(options: ServerOptions) -> np.ndarray:
    """Configuration rows for the coarse program: about `_MASTER_SLOTS` slot counts a rank."""
    rows = []
    for tier in options.tiers:
        of_tier = np.flatnonzero(options.max_lora_rank == tier)
        picks = np.unique(np.linspace(0, len(of_tier) - 1, _MASTER_SLOTS).round().astype(int))
        rows.append(of_tier[picks])
    return np.concatenate(rows)


def _per_part(demand: Demand) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return demand.rate_rps, demand.input_tokens, demand.output_tokens


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """Values rounded down to powers of `_RATE_ROUNDING`: few distinct ones, none too large."""
    some = values > 0
    powers = np.floor(np.log(np.where(some, values, 1.0)) / math.log(_RATE_ROUNDING))
    return np.where(some, _RATE_ROUNDING**powers, 0.0)
