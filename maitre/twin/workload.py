"""What clients send to one server: adapters with rates, lengths, and how bursty it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maitre.twin.errors import TwinInputError, require
from maitre.twin.lengths import Lengths

ARRIVAL_KINDS = ("poisson", "gamma", "mmpp", "trace")


@dataclass(frozen=True)
class AdapterLoad:
    """One adapter's rank and request rate (requests/s), and its own mean lengths if it has any."""

    adapter: str
    rank: int
    rate_rps: float
    mean_input_tokens: float | None = None
    mean_output_tokens: float | None = None


@dataclass(frozen=True)
class Burstiness:
    """How arrivals of one adapter deviate from a Poisson process of the same mean rate.

    `kind` is `poisson`; `gamma`: gaps between arrivals are gamma distributed with the coefficient
    of variation `cv`; `mmpp`: a Markov-modulated Poisson process that is `on` a fraction
    `on_share` of the time, in spells of mean `on_s`, with `off_rate_share` of the on-rate when off.
    """

    kind: str = "poisson"
    cv: float = 1.0
    on_share: float = 0.2
    on_s: float = 60.0
    off_rate_share: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.kind in ARRIVAL_KINDS[:3],
            f"burstiness.kind: {self.kind!r} is not one of {ARRIVAL_KINDS[:3]}",
        )
        require(self.cv > 0, f"burstiness.cv: {self.cv!r} is not positive")
        require(0 < self.on_share <= 1, f"burstiness.on_share: {self.on_share!r} is not in (0, 1]")
        require(self.on_s > 0, f"burstiness.on_s: {self.on_s!r} is not positive")
        require(
            0 <= self.off_rate_share <= 1,
            f"burstiness.off_rate_share: {self.off_rate_share!r} is not in [0, 1]",
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrivals to replay, in time order: seconds, index of the adapter, tokens."""

    arrival_s: NDArray[np.float64]
    adapter: NDArray[np.int32]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Workload:
    """Load on one server for `duration_s` seconds.

    `max_in_flight` is the load generator's own limit: arrivals that find so many requests
    unanswered are lost at the client. None: no limit. `base_model`, if given, must be that of the
    profile.

    Raises:
        TwinInputError: no adapters, a rate that is negative or no number, a repeated adapter.
    """

    adapters: Sequence[AdapterLoad]
    lengths: Lengths
    duration_s: float = 3600.0
    max_in_flight: int | None = None
    burstiness: Burstiness = field(default_factory=Burstiness)
    trace: Trace | None = None
    base_model: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", tuple(self.adapters))
        require(len(self.adapters) > 0, "adapters: there are none; give at least one AdapterLoad")
        require(
            _is_number(self.duration_s) and self.duration_s > 0,
            f"duration_s: {self.duration_s!r} is not a positive number of seconds",
        )
        require(
            self.max_in_flight is None or self.max_in_flight >= 1,
            f"max_in_flight: {self.max_in_flight!r} is not at least 1",
        )
        seen: set[str] = set()
        for load in self.adapters:
            _check_load(load)
            require(load.adapter not in seen, f"adapters: {load.adapter!r} is given twice")
            seen.add(load.adapter)

    @property
    def offered_rps(self) -> float:
        """Mean requests/s over all adapters."""
        if self.trace is not None:
            return len(self.trace.arrival_s) / self.duration_s
        return float(sum(load.rate_rps for load in self.adapters))

    @classmethod
    def from_trace(
        cls,
        frame: Any,
        ranks: dict[str, int] | int = 8,
        duration_s: float | None = None,
        max_in_flight: int | None = None,
    ) -> "Workload":
        """Replays a data frame with columns `arrival_s, adapter, input_tokens, output_tokens`.

        `ranks` gives each adapter's rank (or one for all); `duration_s` defaults to the last
        arrival. Rows may come in any order.

        Raises:
            TwinInputError: a column is missing or a row is not usable; names field and row.
        """
        columns = {}
        for name in ("arrival_s", "adapter", "input_tokens", "output_tokens"):
            require(name in frame, f"trace: the frame has no column {name!r}")
        require(len(frame["arrival_s"]) > 0, "trace: the frame is empty")
        for name, least in (("arrival_s", 0.0), ("input_tokens", 1.0), ("output_tokens", 1.0)):
            try:
                columns[name] = np.asarray(frame[name], np.float64)
            except (TypeError, ValueError) as error:
                raise TwinInputError(f"trace.{name}: holds a value that is not a number") from error
            bad = ~(np.isfinite(columns[name]) & (columns[name] >= least))
            require(
                not bad.any(),
                f"trace.{name}: row {int(np.argmax(bad))} is not a number of at least {least:g}",
            )
        names, index = np.unique(np.asarray(frame["adapter"]).astype(str), return_inverse=True)
        order = np.argsort(columns["arrival_s"], kind="stable")
        trace = Trace(
            arrival_s=columns["arrival_s"][order],
            adapter=index[order].astype(np.int32),
            input_tokens=columns["input_tokens"][order].astype(np.int32),
            output_tokens=columns["output_tokens"][order].astype(np.int32),
        )
        span_s = float(duration_s or max(trace.arrival_s[-1], 1e-3))
        counts = np.bincount(index, minlength=len(names))
        return cls(
            adapters=[
                AdapterLoad(name, _rank_of(ranks, name), int(count) / span_s)
                for name, count in zip(names.tolist(), counts, strict=True)
            ],
            lengths=Lengths.from_frame(
                {"input_tokens": trace.input_tokens, "output_tokens": trace.output_tokens}
            ),
            duration_s=span_s,
            max_in_flight=max_in_flight,
            trace=trace,
        )


def _rank_of(ranks: dict[str, int] | int, name: str) -> int:
    if isinstance(ranks, int):
        return ranks
    require(name in ranks, f"ranks: none is given for adapter {name!r}")
    return ranks[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _check_load(load: AdapterLoad) -> None:
    require(
        _is_number(load.rank) and load.rank == int(load.rank) and load.rank >= 1,
        f"adapters[{load.adapter!r}].rank: {load.rank!r} is not a whole number of at least 1",
    )
    require(
        _is_number(load.rate_rps) and load.rate_rps >= 0,
        f"adapters[{load.adapter!r}].rate_rps: {load.rate_rps!r} is not a rate of at least 0",
    )
    for field_name in ("mean_input_tokens", "mean_output_tokens"):
        mean = getattr(load, field_name)
        require(
            mean is None or (_is_number(mean) and mean >= 1),
            f"adapters[{load.adapter!r}].{field_name}: {mean!r} is not a number of at least 1",
        )
