"""What has to be placed: the parts of adapters, with hot adapters divided into replicas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maitre.maxpack.features import SetSums, adapter_terms


@dataclass(frozen=True)
class Demand:
    """Parts to place, in columns of one length.

    A part is an adapter, or one of several replicas of it. `adapter` is the position in the
    catalogue, `share` the part of its requests, `rate_rps` what the part has to sustain, `rank`
    its LoRA rank, `terms` its additive features (`maitre.maxpack.features`).
    """

    adapter: np.ndarray
    share: np.ndarray
    rate_rps: np.ndarray
    rank: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    terms: np.ndarray

    @classmethod
    def of(
        cls,
        rates_rps: np.ndarray,
        ranks: np.ndarray,
        input_tokens: np.ndarray,
        output_tokens: np.ndarray,
        replicas: np.ndarray | None = None,
    ) -> Demand:
        """One part an adapter, or `replicas[i]` equal parts of adapter i."""
        count = np.ones(len(rates_rps), dtype=np.int64) if replicas is None else replicas
        adapter = np.repeat(np.arange(len(rates_rps)), count)
        share = 1.0 / count[adapter]
        rates = rates_rps[adapter] * share
        return cls(
            adapter,
            share,
            rates,
            ranks[adapter],
            input_tokens[adapter],
            output_tokens[adapter],
            adapter_terms(rates, input_tokens[adapter], output_tokens[adapter]),
        )

    @classmethod
    def of_shares(cls, whole: Demand, adapter: np.ndarray, share: np.ndarray) -> Demand:
        """Given parts of whole adapters: `whole` has one part an adapter, at its position."""
        rates = whole.rate_rps[adapter] * share
        inputs, outputs = whole.input_tokens[adapter], whole.output_tokens[adapter]
        terms = adapter_terms(rates, inputs, outputs)
        return cls(adapter, share, rates, whole.rank[adapter], inputs, outputs, terms)

    def __len__(self) -> int:
        return len(self.adapter)

    def sums(self, server: np.ndarray, servers: int) -> SetSums:
        """The sets that an assignment makes: `server` holds each part's server."""
        return SetSums.of_groups(self.terms, self.rank, server, servers)

    def take(self, parts: np.ndarray) -> Demand:
        """Some of the parts."""
        return Demand(
            self.adapter[parts],
            self.share[parts],
            self.rate_rps[parts],
            self.rank[parts],
            self.input_tokens[parts],
            self.output_tokens[parts],
            self.terms[parts],
        )
