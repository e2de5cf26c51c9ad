"""Features of a set of adapters on one server, kept as sums and maxima.

A set is described by additive terms (counts, token rates, expected numbers of adapters active
at several step times) and two maxima. Adding or removing one adapter therefore updates a set in
O(1), and many candidate sets are described by one matrix operation.

Why the step times: a request of adapter i stays in the batch for its output tokens times the time
t of a step, so with Poisson arrivals at rate r_i the adapter is in the batch with probability
1 - exp(-r_i output_i t) (occupancy of an M/G/infinity queue). Summed over adapters this is the
number of distinct adapters in the batch, which is what LoRA costs grow with (arXiv 2508.08343).
t itself depends on the set, so the sum is kept at several and interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_TIMES_S = tuple(0.01 * 2.0**k for k in range(9))
TERMS = (
    "adapters",
    "rate_rps",
    "input_tps",
    "output_tps",
    "input_input",
    "input_output",
    "output_output",
    "rate_squared",
    *(f"active_{1000 * step:g}ms" for step in STEP_TIMES_S),
)
FIRST_ACTIVE = TERMS.index("rate_squared") + 1


def adapter_terms(
    rates_rps: np.ndarray, mean_input_tokens: np.ndarray, mean_output_tokens: np.ndarray
) -> np.ndarray:
    """Return the additive terms of each adapter: shape (adapters, len(TERMS)), columns as `TERMS`.

    All arrays have one entry per adapter; an adapter of which a server takes only a share enters
    with its rate times that share.
    """
    rates = np.asarray(rates_rps, dtype=np.float64)
    outputs = rates * mean_output_tokens
    columns = [
        np.ones_like(rates),
        rates,
        rates * mean_input_tokens,
        outputs,
        rates * np.square(mean_input_tokens),
        outputs * mean_input_tokens,
        outputs * mean_output_tokens,
        rates**2,
        *(-np.expm1(-outputs * step) for step in STEP_TIMES_S),
    ]
    return np.column_stack(columns)


@dataclass(frozen=True)
class LengthMoments:
    """What the length distribution adds to its means.

    `input_input` is E[in^2] / E[in]^2, `input_output` E[in out] / (E[in] E[out]) and so on to the
    third order. `block_tokens` is the size of a KV block.
    """

    input_input: float
    input_output: float
    output_output: float
    input_input_output: float
    input_output_output: float
    output_output_output: float
    block_tokens: int = 16

    @classmethod
    def of(
        cls, input_tokens: np.ndarray, output_tokens: np.ndarray, block_tokens: int = 16
    ) -> LengthMoments:
        """Return the moments of a sample of requests, one entry each."""
        inputs = input_tokens.astype(float) / input_tokens.mean()
        outputs = output_tokens.astype(float) / output_tokens.mean()
        return cls(
            float((inputs**2).mean()),
            float((inputs * outputs).mean()),
            float((outputs**2).mean()),
            float((inputs**2 * outputs).mean()),
            float((inputs * outputs**2).mean()),
            float((outputs**3).mean()),
            block_tokens,
        )


@dataclass(frozen=True)
class SetSums:
    """Many sets of adapters: `sums` (sets, len(TERMS)), `max_rank` and `max_rate_rps` (sets,)."""

    sums: np.ndarray
    max_rank: np.ndarray
    max_rate_rps: np.ndarray

    def __len__(self) -> int:
        return len(self.sums)

    @classmethod
    def of_groups(
        cls, terms: np.ndarray, ranks: np.ndarray, group: np.ndarray, groups: int
    ) -> SetSums:
        """Return the sums of `groups` sets of adapters; `group` holds each adapter's set."""
        sums = np.column_stack(
            [np.bincount(group, weights=column, minlength=groups) for column in terms.T]
        )
        max_rank = np.zeros(groups, dtype=np.int64)
        np.maximum.at(max_rank, group, ranks)
        max_rate = np.zeros(groups)
        np.maximum.at(max_rate, group, terms[:, TERMS.index("rate_rps")])
        return cls(sums, max_rank, max_rate)

    @classmethod
    def of_prefixes(cls, terms: np.ndarray, ranks: np.ndarray, lengths: np.ndarray) -> SetSums:
        """Return sums of the first `lengths[i]` adapters, for every i; lengths are at least 1."""
        last = np.asarray(lengths) - 1
        return cls(
            np.cumsum(terms, axis=0)[last],
            np.maximum.accumulate(ranks)[last],
            np.maximum.accumulate(terms[:, TERMS.index("rate_rps")])[last],
        )

    def take(self, rows: np.ndarray) -> SetSums:
        """Return the sets at these positions, repeated where positions repeat."""
        return SetSums(self.sums[rows], self.max_rank[rows], self.max_rate_rps[rows])

    def plus(self, terms: np.ndarray, ranks: np.ndarray) -> SetSums:
        """Return each set with one adapter added: `terms` (sets, len(TERMS)) or one row for all."""
        return SetSums(
            self.sums + terms,
            np.maximum(self.max_rank, ranks),
            np.maximum(self.max_rate_rps, terms[..., TERMS.index("rate_rps")]),
        )

    def column(self, term: str) -> np.ndarray:
        """Return one additive term over all sets."""
        return self.sums[:, TERMS.index(term)]
