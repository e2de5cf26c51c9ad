"""The configurations a server may be started with, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maitre.maxpack.card import MaxpackError
from maitre.maxpack.features import LengthMoments
from maitre.twin import Lengths, ServerConfig, ServerProfile
from maitre.twin.kernel.state import StepCost

# What vLLM accepts for --max-lora-rank.
RANK_TIERS = (8, 16, 32, 64, 128, 256, 320, 512)
# Any number of slots will do for vLLM; in steps of an eighth or less none is far from the best.
SLOTS = (*range(8, 32, 2), *range(32, 64, 4), *range(64, 128, 8), *range(128, 256, 16),
         *range(256, 385, 32))  # fmt: skip
# Sequences and tokens of a batch where the profile holds for any number.
LARGEST_BATCH = 2048
_MOMENT_DRAWS = 20_000
_CPU_STEP = 32


def default_lengths() -> Lengths:
    """Return the default lengths: ShareGPT with the means of the measured runs."""
    return Lengths.named("sharegpt")


@dataclass(frozen=True)
class ServerOptions:
    """Configurations in columns: `max_loras`, `max_lora_rank`, `kv_cache_tokens` (0: no memory).

    `step_costs` has the twin's step cost of each, `cost_table` the same as records, `limits` its KV
    cache tokens, slots, sequences and batched tokens; `moments` describes the lengths of requests.
    """

    max_loras: np.ndarray
    max_lora_rank: np.ndarray
    kv_cache_tokens: np.ndarray
    step_costs: tuple[Any, ...]
    limits: np.ndarray
    moments: LengthMoments
    max_num_seqs: int = LARGEST_BATCH
    max_num_batched_tokens: int = LARGEST_BATCH

    @classmethod
    def of(
        cls,
        profile: ServerProfile,
        lengths: Lengths,
        *,
        slots: Sequence[int] = SLOTS,
        ranks: Sequence[int] | None = None,
    ) -> ServerOptions:
        """Return every pair of slots and ranks within the profile's range that starts.

        `ranks` are the tiers of `RANK_TIERS` within the profile's range unless given; the ends of
        the profile's range of slots join `slots`.

        Raises:
            MaxpackError: no such pair starts.
        """
        tiers = rank_tiers(profile) if ranks is None else ranks
        pairs = [
            (count, rank)
            for rank in tiers
            for count in slot_counts(profile, slots)
            if profile.kv_cache_tokens(count, rank) is not None
        ]
        if not pairs:
            raise MaxpackError(
                f"profile {profile.name}: no server starts with valid.max_loras "
                f"{profile.valid.max_loras} at ranks {tuple(tiers)}; beside the slots its memory "
                f"must leave a KV cache of {profile.memory.max_model_len} tokens (max_model_len)"
            )
        return cls.of_pairs(profile, lengths, pairs)

    @classmethod
    def of_pairs(
        cls, profile: ServerProfile, lengths: Lengths, pairs: Sequence[tuple[int, int]]
    ) -> ServerOptions:
        """Return these (slots, rank) pairs, in this order, startable or not."""
        max_num_seqs = _planned_batch(profile.valid.max_num_seqs)
        max_num_batched_tokens = _planned_batch(profile.valid.max_num_batched_tokens)
        costs, limits = [], []
        for count, rank in pairs:
            config = ServerConfig(max_loras=count, max_cpu_loras=count, max_lora_rank=rank)
            costs.append(profile.step_cost(config))
            kv = profile.kv_cache_tokens(count, rank) or 0
            limits.append([kv, count, max_num_seqs, max_num_batched_tokens])
        table = np.array(limits, dtype=np.float64).reshape(len(limits), 4)
        inputs, outputs = lengths.draw(np.random.default_rng(0), _MOMENT_DRAWS)
        return cls(
            np.array([count for count, _ in pairs], dtype=np.int64),
            np.array([rank for _, rank in pairs], dtype=np.int64),
            table[:, 0].astype(np.int64),
            tuple(costs),
            table,
            LengthMoments.of(inputs, outputs, profile.memory.block_tokens),
            max_num_seqs,
            max_num_batched_tokens,
        )

    def __len__(self) -> int:
        return len(self.max_loras)

    @cached_property
    def cost_table(self) -> np.ndarray:
        """`step_costs` as an array of records."""
        fields = StepCost._fields
        return np.array(
            [tuple(cost) for cost in self.step_costs],
            dtype=[(name, np.float64) for name in fields],
        )

    @cached_property
    def ladders(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of each tier by ascending slots, (tiers, most slots), and how many each tier has.

        Shorter ladders repeat their last row.
        """
        rows = [
            np.flatnonzero(self.max_lora_rank == tier)[
                np.argsort(self.max_loras[self.max_lora_rank == tier], kind="stable")
            ]
            for tier in self.tiers
        ]
        lengths = np.array([len(some) for some in rows])
        most = int(lengths.max(initial=0))
        ladder = np.array([np.append(some, np.repeat(some[-1], most - len(some))) for some in rows])
        return ladder, lengths

    @property
    def tiers(self) -> np.ndarray:
        """The ranks that servers may be sized for, ascending."""
        return np.unique(self.max_lora_rank)

    def rank_tier(self, ranks: np.ndarray) -> np.ndarray:
        """Return the smallest tier that holds each rank; 0 where no tier does."""
        tiers = self.tiers
        place = np.searchsorted(tiers, ranks)
        return np.where(place < len(tiers), tiers[np.minimum(place, len(tiers) - 1)], 0)

    def enough_slots(self, adapters: np.ndarray) -> np.ndarray:
        """Return the fewest offered slots that give every adapter its own."""
        slots = np.unique(self.max_loras)
        return slots[np.minimum(np.searchsorted(slots, adapters), len(slots) - 1)]

    def config(self, row: int, adapters: int) -> ServerConfig:
        """Return configuration `row` for a server of that many adapters, all kept in CPU memory.

        With room for a few more, so that one can join without a restart.
        """
        slots = int(self.max_loras[row])
        return ServerConfig(
            max_loras=slots,
            max_cpu_loras=max(slots, -(-adapters // _CPU_STEP) * _CPU_STEP),
            max_lora_rank=int(self.max_lora_rank[row]),
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )


def slot_counts(profile: ServerProfile, slots: Sequence[int] = SLOTS) -> tuple[int, ...]:
    """Return the `slots` within the profile's range, and its ends, ascending.

    Without 0, which is a server without adapters.

    Raises:
        MaxpackError: the profile was fitted on a server without slots.
    """
    low, high = profile.valid.max_loras
    if high < 1:
        raise MaxpackError(
            f"profile {profile.name}: valid.max_loras is {low}..{high}, a server without adapters; "
            "measure one with at least one slot"
        )
    return tuple(sorted({n for n in (low, high, *slots) if max(low, 1) <= n <= high}))


def _planned_batch(valid: tuple[int, int] | None) -> int:
    """Return the batch that servers are planned with: the largest measured one."""
    return LARGEST_BATCH if valid is None else valid[1]


def rank_tiers(profile: ServerProfile) -> tuple[int, ...]:
    """Return the rank tiers within the profile's range."""
    low, high = profile.valid.max_lora_rank
    return tuple(rank for rank in RANK_TIERS if low <= rank <= high) or (high,)
