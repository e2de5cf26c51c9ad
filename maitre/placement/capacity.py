"""What the placement asks of a capacity model: may this set of adapters share a server?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.options import ServerOptions

CONFIGURATIONS_TRIED = 3
_FILL, _STEP = FLUID_FEATURES.index("fill"), FLUID_FEATURES.index("step_ms")
# Part and multiple of a configuration's slots that count as near to it.
_NEAR = (0.6, 1.7)


class SetModel(Protocol):
    """A model of what servers sustain."""

    def risk_of(
        self, sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
    ) -> np.ndarray:
        """Probability that each set, in that steady state, is unhealthy on option `rows[i]`."""
        ...


@dataclass(frozen=True)
class Choice:
    """For each set its best configuration, and on it the risk, the fluid `fill` and step time."""

    rows: np.ndarray
    risk: np.ndarray
    fill: np.ndarray
    step_ms: np.ndarray


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

    def best(
        self,
        sets: SetSums,
        fixed_rows: np.ndarray | None = None,
        *,
        near_row: int | None = None,
    ) -> Choice:
        """The configuration of least risk for each set (or the given one, `fixed_rows`).

        The physics narrows the choice to a few configurations and the model decides among them:
        of those within the risk, the one with the most room; else the least risky. With `near_row`
        only configurations with about as many slots as that one are considered.
        """
        count = len(sets)
        every = np.arange(count)
        if fixed_rows is not None:
            who, rows = every, np.asarray(fixed_rows)
        else:
            who, rows = self._allowed(sets, near_row)
        repeated = sets if fixed_rows is not None else sets.take(who)
        fluid = fluid_features(repeated, self.options, rows)
        if fixed_rows is None:
            # Of the configurations of each set, those with the most room.
            order = np.lexsort((fluid[:, _FILL], who))
            first = np.searchsorted(who[order], every)
            place = np.arange(len(order)) - first[who[order]]
            kept = order[place < CONFIGURATIONS_TRIED]
            who, rows, fluid = who[kept], rows[kept], fluid[kept]
            repeated = sets.take(who)
        risk = self.model.risk_of(repeated, self.options, rows, fluid)
        order = np.lexsort((fluid[:, _FILL], risk, who))
        picked = order[np.searchsorted(who[order], every)]
        too_many = sets.column("adapters") > self.max_adapters
        return Choice(
            rows[picked],
            np.where(too_many, 1.0, risk[picked]),
            fluid[picked, _FILL],
            fluid[picked, _STEP],
        )

    def fits(self, sets: SetSums) -> np.ndarray:
        """Whether each set fits some configuration."""
        return self.best(sets).risk <= self.risk

    def _allowed(self, sets: SetSums, near_row: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of set and configuration: of the set's rank tier, with no slots to spare."""
        options = self.options
        tier = options.rank_tier(sets.max_rank)
        slots = options.enough_slots(sets.column("adapters"))
        allowed = (options.max_lora_rank == tier[:, None]) & (options.max_loras <= slots[:, None])
        if near_row is not None:
            centre = options.max_loras[near_row]
            some = (options.max_loras >= _NEAR[0] * centre) & (
                options.max_loras <= _NEAR[1] * centre
            )
            narrowed = allowed & some
            allowed = np.where(narrowed.any(axis=1)[:, None], narrowed, allowed)
        who, rows = np.nonzero(allowed)
        return who, rows
