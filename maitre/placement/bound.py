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

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from maitre.maxpack.options import ServerOptions
from maitre.placement.demand import Demand
from maitre.placement.relaxation import Groups, Types

_COARSE_RATIO, _FINE_RATIO = 1.3, 1.02
_MASTER_SLOTS = 7
_SHARES = 8
_TYPES_AT_ONCE = 512


def lower_bound_servers(demand: Demand, options: ServerOptions) -> int:
    """The bound in whole servers; `demand` has one part an adapter."""
    return max(1, math.ceil(relaxed_servers(demand, options) - 1e-6))


def relaxed_servers(demand: Demand, options: ServerOptions) -> float:
    """The bound before rounding up."""
    groups = Groups.of(demand, options)
    if not len(groups.count):
        return 0.0
    worth = _worths(groups, Types.of(options, _COARSE_RATIO, _thinned(options)))
    return _certified(groups, worth, Types.of(options, _FINE_RATIO, np.arange(len(options))))


def _worths(groups: Groups, types: Types) -> np.ndarray:
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


def _interpolated(groups: Groups, merged: Groups, dual: np.ndarray) -> np.ndarray:
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


def _certified(groups: Groups, worth: np.ndarray, types: Types) -> float:
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
