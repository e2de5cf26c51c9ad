"""A lower bound on the servers that any placement needs, whatever its method.

The relaxation. When its steps take t seconds on average, a server of S slots of rank R spends at
most all of its time, its KV cache, its slots and its sequences (`maitre.maxpack.fluid`):

    sum_i time_i(t) <= 1 - c0/t     sum_i kv_i t <= KV(S, R)     sum_i active_i(t) <= S
    sum_i tokens_i t <= batched tokens

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
limits at their largest. Rates are valued at some nodes and linearly between them, which is at
most what they use (`maitre.placement.relaxation.Nodes`). Where lengths are many, nodes at mean
lengths find the multipliers, and the bound is summed over the adapters, rounded down.

What it rests on: the load lasts (averages, no luck of a short run), arrivals are Poisson, servers
have a configuration of the `ServerOptions` at hand, and where a server has fewer slots than
adapters requests wait for one no longer than W = SLO / ln 100 on average, which is what
exponential waits with their 99th percentile at the objective have. Requests that wait gather, so
that an adapter is active for less of the time: types with few slots are credited with that, for
time and slots alike. In types with a slot for each adapter, each adapter uses a whole slot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from maitre.errors import UserError
from maitre.maxpack.compiled import compiled
from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS
from maitre.maxpack.options import ServerOptions
from maitre.placement.demand import Demand
from maitre.placement.relaxation import LONGEST_STEP_S, SHORTEST_STEP_S, Nodes, Types

_COARSE_RATIO, _FINE_RATIO = 1.45, 1.03
# Step times of servers that a good plan has: where worths are looked for. The bound trusts none.
_LIKELY_STEPS_S = (0.02, 0.3)
_MASTER_SLOTS = 6
# Steps of the search for multipliers, and the worth at which it need not go on.
_SHARE_STEPS = (0.2, 0.08, 0.03, 0.01, 0.004)
_ENOUGH = 1.02
_TYPES_AT_ONCE = 512


class BoundError(UserError):
    """Servers too slow for any bound."""


def lower_bounds(
    demand: Demand,
    options: ServerOptions,
    factors: Sequence[float] = (1.0,),
    *,
    max_adapters: int | None = None,
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS,
) -> tuple[int, ...]:
    """Return the bound in whole servers at each multiple of the rates, one part per adapter.

    `max_adapters` is the most that a server may hold.
    """
    least = len(demand) / max_adapters if max_adapters else 0.0
    relaxed = relaxed_servers(demand, options, factors, ttft_slo_ms=ttft_slo_ms)
    return tuple(max(1, math.ceil(max(bound, least) - 1e-6)) for bound in relaxed)


def relaxed_servers(
    demand: Demand,
    options: ServerOptions,
    factors: Sequence[float] = (1.0,),
    *,
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS,
) -> tuple[float, ...]:
    """Return the bounds before rounding up.

    The program is solved at the catalogue's rates; its worths are used at all their multiples.

    Raises:
        BoundError: no server makes a step within the objective for first tokens.
    """
    nodes, exact = Nodes.of(demand, options)
    if not len(nodes.weight):
        return (0.0,) * len(factors)
    wait_s = 1e-3 * ttft_slo_ms / math.log(100)
    steps_s = (SHORTEST_STEP_S, max(LONGEST_STEP_S, 1e-3 * ttft_slo_ms))
    every = Types.of(options, _FINE_RATIO, np.arange(len(options)), wait_s, steps_s)
    worth = _worths(nodes, _likely_types(nodes, options, wait_s, steps_s))
    found = []
    for factor in factors:
        hotter = nodes.at_rates(factor)
        counted = hotter if exact else Nodes.each(demand.at_rates(factor), options)
        found.append(_dual_bound(hotter, factor * worth, every, counted))
    return tuple(found)


def _likely_types(
    nodes: Nodes, options: ServerOptions, wait_s: float, steps_s: tuple[float, float]
) -> Types:
    """Return the types among which worths are searched: likely step times, or all.

    Steps of slow servers take longer than the likely ones. For slower servers still than all
    of `steps_s` there are no worths, and no plan either: a first token takes a step.
    """
    rows = _coarse_rows(options)
    largest = nodes.tier.max()
    for range_s in (_LIKELY_STEPS_S, steps_s):
        types = Types.of(options, _COARSE_RATIO, rows, wait_s, range_s)
        types = types.take(np.all(types.limits()[:, :2] > 0.02, axis=1))
        if np.any(types.rank >= largest):
            return types
    raise BoundError(
        f"no server with slots of rank {largest} makes a step within {steps_s[1]:g} s; the "
        "profile's step times (base_ms and what follows, in ms) are too long to place adapters by"
    )


def _worths(nodes: Nodes, types: Types) -> np.ndarray:
    """Return the share of a server that an adapter at each node is worth: the LP's duals."""
    part = types.use(nodes) / types.limits()[:, None, :]
    n_types, n_nodes = len(types), len(nodes.weight)
    # Variables: adapters of each node on each type (where the rank fits), servers of each type.
    kind, node = np.nonzero(types.rank[:, None] >= nodes.tier[None, :])
    pairs, kinds = len(kind), part.shape[2]
    rows = np.concatenate(
        [(kind[:, None] * kinds + np.arange(kinds)).ravel(), np.arange(kinds * n_types)]
    )
    columns = np.concatenate(
        [np.repeat(np.arange(pairs), kinds), pairs + np.repeat(np.arange(n_types), kinds)]
    )
    values = np.concatenate([part[kind, node].ravel(), -np.ones(kinds * n_types)])
    uses = csr_matrix((values, (rows, columns)), shape=(kinds * n_types, pairs + n_types))
    placed = csr_matrix(
        (np.ones(pairs), (node, np.arange(pairs))), shape=(n_nodes, pairs + n_types)
    )
    solved = linprog(
        np.concatenate([np.zeros(pairs), np.ones(n_types)]),
        A_ub=uses,
        b_ub=np.zeros(kinds * n_types),
        A_eq=placed,
        b_eq=nodes.weight,
        method="highs-ipm",
    )
    if solved.status != 0:
        raise RuntimeError(f"the relaxation was not solved: {solved.message}")
    return np.maximum(np.asarray(solved.eqlin.marginals), 1e-12)


def _dual_bound(nodes: Nodes, worth: np.ndarray, types: Types, counted: Nodes) -> float:
    """Return the bound by weak duality: for every type the best multipliers found for these worths.

    Any multipliers give a bound; a poor choice only makes it weaker. They are chosen on `nodes`,
    and the bound is summed over `counted`, which may be others.
    """
    limits = types.limits()
    possible = np.all(limits[:, :2] > 0, axis=1)
    types, limits = types.take(possible), limits[possible]
    shares = np.full(limits.shape[1], 1.0 / limits.shape[1])
    # Worths that every type carries with this much to spare are not looked at more closely.
    least = np.full(len(nodes.weight), _ENOUGH)
    least_counted = np.full(len(counted.weight), np.inf)
    for start in range(0, len(types), _TYPES_AT_ONCE):
        some = types.take(np.arange(start, min(start + _TYPES_AT_ONCE, len(types))))
        limit = limits[start : start + _TYPES_AT_ONCE, None, :]
        relative = some.use(nodes) / limit / worth[None, :, None]
        relative[some.rank[:, None] < nodes.tier[None, :]] = _ENOUGH
        chosen = np.empty((len(some), limits.shape[1]))
        _lower_least(relative, shares, _SHARE_STEPS, _ENOUGH, least, chosen)
        if counted is not nodes:
            used = np.einsum("tgk,tk->tg", some.use(counted), chosen / limit[:, 0])
            used[some.rank[:, None] < counted.tier[None, :]] = np.inf
            least_counted = np.minimum(least_counted, used.min(axis=0))
    if counted is not nodes:
        return float(np.sum(counted.weight * least_counted) / (1 + 1e-9))
    return float(np.sum(nodes.weight * worth * least) / (1 + 1e-9))


@compiled
def _lower_least(relative, shares, steps, enough, least, chosen):
    """Lower each node's `least` to its smallest use by any type, under the type's multipliers.

    `relative` is use over worth and limit: (types, nodes, limits). The multipliers, `shares`, sum
    to 1. Each type's search moves parts of them from one limit to another, in ever smaller steps,
    as long as that raises the node of least use. It begins at the multipliers of the type before.
    """
    types, nodes, limits = relative.shape
    for k in range(types):
        use = relative[k]
        weakest = _smallest_ratio(use, shares)
        for step in steps:
            better = weakest < enough
            while better:
                better = False
                for source in range(limits):
                    for target in range(limits):
                        moved = min(step, shares[source])
                        if source == target or moved <= 0.0 or weakest >= enough:
                            continue
                        shares[source] -= moved
                        shares[target] += moved
                        now = _smallest_ratio(use, shares)
                        if now > weakest * (1.0 + 1e-6):
                            weakest = now
                            better = True
                        else:
                            shares[source] += moved
                            shares[target] -= moved
        chosen[k] = shares
        if weakest < enough:
            for node in range(nodes):
                value = 0.0
                for limit in range(limits):
                    value += use[node, limit] * shares[limit]
                least[node] = min(least[node], value)


@compiled
def _smallest_ratio(use, shares):
    weakest = np.inf
    for node in range(use.shape[0]):
        value = 0.0
        for limit in range(use.shape[1]):
            value += use[node, limit] * shares[limit]
        weakest = min(weakest, value)
    return weakest


def _coarse_rows(options: ServerOptions) -> np.ndarray:
    """Return rows for the coarse program: about `_MASTER_SLOTS` slot counts per rank."""
    rows = []
    for tier in options.tiers:
        of_tier = np.flatnonzero(options.max_lora_rank == tier)
        picks = np.unique(np.linspace(0, len(of_tier) - 1, _MASTER_SLOTS).round().astype(int))
        rows.append(of_tier[picks])
    return np.concatenate(rows)
