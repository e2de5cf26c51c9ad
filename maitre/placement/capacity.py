"""What the placement asks of a capacity model: may this set of adapters share a server?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import fluid_features
from maitre.maxpack.options import ServerOptions

CONFIGURATIONS_TRIED = 3


class SetModel(Protocol):
    """A model of what servers sustain."""

    def risk(self, sets: SetSums, options: ServerOptions, rows: np.ndarray) -> np.ndarray:
        """Probability that each set is unhealthy on configuration `rows[i]` of the options."""
        ...


@dataclass(frozen=True)
class Choice:
    """For each set its best configuration, the risk on it and the fluid `fill` of it."""

    rows: np.ndarray
    risk: np.ndarray
    fill: np.ndarray


@dataclass(frozen=True)
class Capacity:
    """Decides whether sets fit a server, and on which configuration.

    A set fits when the model puts the risk of an unhealthy server at no more than `risk` and it
    holds at most `max_adapters`.
    """

    model: SetModel
    options: ServerOptions
    risk: float
    max_adapters: int

    def best(self, sets: SetSums, fixed_rows: np.ndarray | None = None) -> Choice:
        """The configuration of least risk for each set (or the given one, `fixed_rows`).

        The physics narrows the choice to a few configurations and the model decides among them:
        of those within the risk, the one with the most room; else the least risky.
        """
        if fixed_rows is not None:
            fluid = fluid_features(sets, self.options, fixed_rows)
            return Choice(fixed_rows, self.model.risk(sets, self.options, fixed_rows), fluid[:, 0])
        count = len(sets)
        fill = self._fills(sets)
        tried = min(CONFIGURATIONS_TRIED, fill.shape[1])
        rows = np.argsort(fill, axis=1, kind="stable")[:, :tried]
        repeated = sets.take(np.repeat(np.arange(count), tried))
        risks = self.model.risk(repeated, self.options, rows.ravel()).reshape(count, tried)
        fills = np.take_along_axis(fill, rows, 1)
        # Rows that do not hold the rank were only tried for want of others.
        risks = np.where(np.isfinite(fills), risks, np.inf)
        order = np.lexsort((fills, risks), axis=1)[:, 0]
        every = np.arange(count)
        chosen = rows[every, order]
        risk = np.where(sets.column("adapters") > self.max_adapters, 1.0, risks[every, order])
        return Choice(chosen, risk, fill[every, chosen])

    def fits(self, sets: SetSums) -> np.ndarray:
        """Whether each set fits some configuration."""
        return self.best(sets).risk <= self.risk

    def _fills(self, sets: SetSums) -> np.ndarray:
        """Fluid fill of every set on every configuration; infinite where ranks do not fit."""
        options = self.options
        fill = np.full((len(sets), len(options)), np.inf)
        tier = options.rank_tier(sets.max_rank)
        slots = options.enough_slots(sets.column("adapters"))
        who, rows = np.nonzero(
            (options.max_lora_rank == tier[:, None]) & (options.max_loras <= slots[:, None])
        )
        fluid = fluid_features(sets.take(who), options, rows)
        fill[who, rows] = fluid[:, 0]
        return fill
