"""What the placement asks of a capacity model: whether a set of adapters may share a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.options import ServerOptions
from maitre.maxpack.slots import roomiest_rows

CONFIGURATIONS_TRIED = 4
SETS_AT_ONCE = 16_384
_FILL, _STEP = FLUID_FEATURES.index("fill"), FLUID_FEATURES.index("step_ms")


class SetModel(Protocol):
    """A model of what servers sustain."""

    def risk_of(
        self, sets: SetSums, options: ServerOptions, rows: np.ndarray, fluid: np.ndarray
    ) -> np.ndarray:
        """Return the probability that each set, in that steady state, is unhealthy on `rows[i]`."""
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
        """Return the configuration of least risk for each set (or the given one, `fixed_rows`).

        The risk is 1 where a set has more adapters than a server may hold, or a rank above that of
        the configuration.

        The physics narrows the choice to a few configurations and the model decides among them:
        the least risky, of equally risky ones that with the most room. With `near_row` the search
        for slots starts at that configuration.
        """
        every = np.arange(len(sets))
        if fixed_rows is not None:
            who, rows = every, np.asarray(fixed_rows)
        else:
            near_slots = None if near_row is None else int(self.options.max_loras[near_row])
            who, rows = roomiest_rows(
                sets,
                self.options,
                self.options.rank_tier(sets.max_rank),
                kept=CONFIGURATIONS_TRIED,
                near_slots=near_slots,
            )
        fluid = fluid_features(sets, self.options, rows, who)
        repeated = sets if fixed_rows is not None else sets.take(who)
        risk = self.model.risk_of(repeated, self.options, rows, fluid)
        order = np.lexsort((fluid[:, _FILL], risk, who))
        picked = order[np.searchsorted(who[order], every)]
        impossible = sets.column("adapters") > self.max_adapters
        impossible |= self.options.max_lora_rank[rows[picked]] < sets.max_rank
        return Choice(
            rows[picked],
            np.where(impossible, 1.0, risk[picked]),
            fluid[picked, _FILL],
            fluid[picked, _STEP],
        )

    def fits(self, sets: SetSums) -> np.ndarray:
        """Return whether each set fits some configuration."""
        verdicts = [np.zeros(0, dtype=bool)]
        # In blocks: a million sets with all their candidates would take gigabytes.
        for start in range(0, len(sets), SETS_AT_ONCE):
            some = sets.take(np.arange(start, min(start + SETS_AT_ONCE, len(sets))))
            verdicts.append(self.best(some).risk <= self.risk)
        return np.concatenate(verdicts)
