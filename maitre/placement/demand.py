"""What has to be placed: the parts of adapters, with hot adapters divided into replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from maitre.maxpack.features import SetSums, adapter_terms


@dataclass(frozen=True)
class Demand:
    """Parts to place, in columns of one length.

    A part is an adapter, or one of several replicas of it. `adapter` is the position in the
    catalogue, `share` the part of its requests, `rate_rps` what the part has to sustain, `rank`
    its LoRA rank, `terms` its additive features (`maitre.maxpack.features`); `pin` the number of
    the server that it must be on, -1 for any.
    """

    adapter: np.ndarray
    share: np.ndarray
    rate_rps: np.ndarray
    rank: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    terms: np.ndarray
    pin: np.ndarray

    @classmethod
    def of(
        cls,
        rates_rps: np.ndarray,
        ranks: np.ndarray,
        input_tokens: np.ndarray,
        output_tokens: np.ndarray,
        replicas: np.ndarray | None = None,
        pin: np.ndarray | None = None,
    ) -> Demand:
        """Return one part per adapter, or `replicas[i]` equal parts of adapter i.

        Of a pinned adapter (`pin`, one number each) the first part is pinned.
        """
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
            _first_of_each(adapter, pin),
        )

    @classmethod
    def of_shares(cls, whole: Demand, adapter: np.ndarray, share: np.ndarray) -> Demand:
        """Return the given parts of whole adapters: `whole` has one part per adapter."""
        rates = whole.rate_rps[adapter] * share
        inputs, outputs = whole.input_tokens[adapter], whole.output_tokens[adapter]
        terms = adapter_terms(rates, inputs, outputs)
        pin = np.where(whole.pin[adapter] >= 0, whole.pin[adapter], -1)
        return cls(adapter, share, rates, whole.rank[adapter], inputs, outputs, terms, pin)

    def at_rates(self, factor: float) -> Demand:
        """Return the same parts with all rates multiplied by `factor`."""
        rates = self.rate_rps * factor
        terms = adapter_terms(rates, self.input_tokens, self.output_tokens)
        return replace(self, rate_rps=rates, terms=terms)

    @property
    def is_pinned(self) -> np.ndarray:
        """Whether each part has its server prescribed."""
        return self.pin >= 0

    def pins(self) -> list[np.ndarray]:
        """Return the pinned parts of each prescribed server, by its number."""
        return [np.flatnonzero(self.pin == number) for number in range(int(self.pin.max()) + 1)]

    def __len__(self) -> int:
        return len(self.adapter)

    def sums(self, server: np.ndarray, servers: int) -> SetSums:
        """Return the sets that an assignment makes: `server` holds each part's server."""
        return SetSums.of_groups(self.terms, self.rank, server, servers)

    def take(self, parts: np.ndarray) -> Demand:
        """Return some of the parts."""
        return Demand(
            self.adapter[parts],
            self.share[parts],
            self.rate_rps[parts],
            self.rank[parts],
            self.input_tokens[parts],
            self.output_tokens[parts],
            self.terms[parts],
            self.pin[parts],
        )


def _first_of_each(adapter: np.ndarray, pin: np.ndarray | None) -> np.ndarray:
    if pin is None:
        return np.full(len(adapter), -1)
    first = np.diff(adapter, prepend=-1) > 0
    return np.where(first, pin[adapter], -1)
