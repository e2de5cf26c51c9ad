"""The best server for a set of adapters, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maitre.errors import UserError
from maitre.maxpack.features import SetSums, adapter_terms
from maitre.maxpack.fluid import FLUID_FEATURES, fluid_features
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.steady import SteadyStateModel
from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile


@dataclass(frozen=True)
class SlotChoice:
    """One number of slots that was considered, and what it would mean."""

    max_loras: int
    kv_cache_tokens: int
    risk: float
    fill: float
    step_ms: float
    kv_fraction: float
    adapters_in_batch: float


@dataclass(frozen=True)
class Recommendation:
    """The configuration of least risk; `choices` are all slot counts considered, ascending."""

    config: ServerConfig
    risk: float
    reason: str
    choices: tuple[SlotChoice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values."""
        return asdict(self)


def recommend_server(
    adapters: Sequence[AdapterLoad],
    profile: ServerProfile,
    *,
    model: MaxpackModel | SteadyStateModel | None = None,
    lengths: Lengths | None = None,
) -> Recommendation:
    """Return `max_loras`, `max_lora_rank` and `max_cpu_loras` for these adapters on one server.

    Every slot takes KV cache in proportion to the rank it is sized for; too few slots make requests
    wait for one. All adapters stay in CPU memory. Without a model the steady state decides.

    Raises:
        ValueError: no adapters, or a rank for which the profile has no tier.
    """
    if not adapters:
        raise UserError("adapters: there are none; give at least one AdapterLoad")
    lengths = lengths or default_lengths()
    options = ServerOptions.of(profile, lengths)
    largest = max(load.rank for load in adapters)
    tier = int(options.rank_tier(np.array([largest]))[0])
    if tier == 0:
        raise UserError(
            f"adapters: rank {largest} is above {options.tiers[-1]}, the largest that profile "
            f"{profile.name} covers"
        )
    sets = _as_set(adapters, lengths)
    enough = options.enough_slots(sets.column("adapters"))[0]
    rows = np.flatnonzero((options.max_lora_rank == tier) & (options.max_loras <= enough))
    repeated = sets.take(np.zeros(len(rows), dtype=np.int64))
    fluid = fluid_features(repeated, options, rows)
    risks = (model or SteadyStateModel()).risk(repeated, options, rows)
    choices = tuple(
        _choice(options, int(row), float(risk), values)
        for row, risk, values in zip(rows, risks, fluid, strict=True)
    )
    # The risks of servers far from their limits hardly differ: then the most room decides.
    best = int(np.lexsort((fluid[:, 0], np.round(risks, 3)))[0])
    return Recommendation(
        options.config(int(rows[best]), len(adapters)),
        float(risks[best]),
        _reason(choices, best, len(adapters), tier),
        choices,
    )


def _as_set(adapters: Sequence[AdapterLoad], lengths: Lengths) -> SetSums:
    mean_in, mean_out = lengths.means()
    terms = adapter_terms(
        np.array([load.rate_rps for load in adapters]),
        np.array([load.mean_input_tokens or mean_in for load in adapters]),
        np.array([load.mean_output_tokens or mean_out for load in adapters]),
    )
    ranks = np.array([load.rank for load in adapters])
    return SetSums.of_groups(terms, ranks, np.zeros(len(adapters), dtype=np.int64), 1)


def _choice(options: ServerOptions, row: int, risk: float, values: np.ndarray) -> SlotChoice:
    fluid = dict(zip(FLUID_FEATURES, values.tolist(), strict=True))
    return SlotChoice(
        max_loras=int(options.max_loras[row]),
        kv_cache_tokens=int(options.kv_cache_tokens[row]),
        risk=risk,
        fill=fluid["fill"],
        step_ms=fluid["step_ms"],
        kv_fraction=fluid["kv_fraction"],
        adapters_in_batch=fluid["adapters_in_batch"],
    )


def _reason(choices: Sequence[SlotChoice], best: int, adapters: int, tier: int) -> str:
    chosen, most = choices[best], choices[-1]
    text = (
        f"{chosen.max_loras} slots of rank {tier} for {adapters} adapters, of which about "
        f"{chosen.adapters_in_batch:.0f} are in the batch at a time; the KV cache keeps "
        f"{chosen.kv_cache_tokens} tokens and is {100 * chosen.kv_fraction:.0f} % used"
    )
    if chosen.max_loras >= adapters:
        text += "; no request waits for a slot"
    elif most is not chosen:
        lost = chosen.kv_cache_tokens - most.kv_cache_tokens
        text += f"; a slot for each ({most.max_loras}) would take {lost} tokens of KV cache more"
    if best > 0:
        fewer = choices[best - 1]
        text += (
            f"; with {fewer.max_loras} slots the server would be {100 * fewer.fill:.0f} % full "
            f"instead of {100 * chosen.fill:.0f} %"
        )
    return text
