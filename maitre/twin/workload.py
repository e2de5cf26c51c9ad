"""The load on one server: adapters with rates, lengths of requests, and burstiness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maitre.twin.errors import TwinInputError, require, shown
from maitre.twin.lengths import Lengths

LONGEST_SILENCE_S = 3600.0
MOST_TOKENS = 2**31 - 1
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
    """The deviation of one adapter's arrivals from a Poisson process of the same mean rate.

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
            f"burstiness.kind: expected one of {ARRIVAL_KINDS[:3]}; got {self.kind!r}",
        )
        require(self.cv > 0, f"burstiness.cv: expected a positive number; got {shown(self.cv)}")
        require(
            0 < self.on_share <= 1,
            f"burstiness.on_share: expected a number above 0, up to 1; got {shown(self.on_share)}",
        )
        require(
            self.on_s > 0,
            f"burstiness.on_s: expected a positive number of seconds; got {shown(self.on_s)}",
        )
        require(
            0 <= self.off_rate_share <= 1,
            f"burstiness.off_rate_share: expected a number from 0 to 1; got "
            f"{shown(self.off_rate_share)}",
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
            f"duration_s: expected a positive number of seconds; got {shown(self.duration_s)}",
        )
        require(
            self.max_in_flight is None or self.max_in_flight >= 1,
            f"max_in_flight: expected at least 1; got {shown(self.max_in_flight)}",
        )
        seen: set[str] = set()
        for load in self.adapters:
            _check_load(load)
            require(load.adapter not in seen, f"adapters: {load.adapter!r} is given twice")
            seen.add(load.adapter)

    @property
    def offered_rps(self) -> float:
        """Return the mean requests/s over all adapters."""
        if self.trace is not None:
            return len(self.trace.arrival_s) / self.duration_s
        return float(sum(load.rate_rps for load in self.adapters))

    def mean_tokens(self) -> tuple[float, float]:
        """Return the mean prompt and output tokens of a request, over all adapters."""
        if self.trace is not None and len(self.trace.input_tokens):
            return float(self.trace.input_tokens.mean()), float(self.trace.output_tokens.mean())
        of_lengths = self.lengths.means()
        own = np.array(
            [
                (load.mean_input_tokens or of_lengths[0], load.mean_output_tokens or of_lengths[1])
                for load in self.adapters
            ]
        )
        rates = np.array([load.rate_rps for load in self.adapters], np.float64)
        mean = np.average(own, axis=0, weights=rates if rates.sum() > 0 else None)
        return float(mean[0]), float(mean[1])

    @classmethod
    def from_trace(
        cls,
        frame: Any,
        ranks: Mapping[str, int] | int = 8,
        duration_s: float | None = None,
        max_in_flight: int | None = None,
    ) -> "Workload":
        """Replay a data frame with columns `arrival_s, adapter, input_tokens, output_tokens`.

        `ranks` gives each adapter's rank (or one for all); `duration_s` defaults to the last
        arrival. Rows may come in any order. Arrivals that begin late are shifted
        (`shift_to_start`).

        Raises:
            TwinInputError: a column is missing or a row is not usable; names field and row.
        """
        columns = {}
        for name in ("arrival_s", "adapter", "input_tokens", "output_tokens"):
            require(name in frame, f"trace: the frame has no column {name!r}")
        require(len(frame["arrival_s"]) > 0, "trace: the frame is empty")
        for name, least in (("arrival_s", 0), ("input_tokens", 1), ("output_tokens", 1)):
            try:
                columns[name] = np.asarray(frame[name], np.float64)
            except (TypeError, ValueError) as error:
                raise TwinInputError(f"trace.{name}: holds a value that is not a number") from error
            usable = np.isfinite(columns[name]) & (columns[name] >= least)
            kind = "number"
            if name != "arrival_s":
                usable &= (np.rint(columns[name]) == columns[name]) & (columns[name] <= MOST_TOKENS)
                kind = "whole number"
            if not usable.all():
                row = int(np.argmin(usable))
                raise TwinInputError(
                    f"trace.{name}: row {row}: expected a {kind} of at least {least}; got "
                    f"{shown(columns[name][row])}"
                )
        arrival_s = shift_to_start(columns["arrival_s"], duration_s)
        names, index = np.unique(np.asarray(frame["adapter"]).astype(str), return_inverse=True)
        order = np.argsort(arrival_s, kind="stable")
        trace = Trace(
            arrival_s=arrival_s[order],
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


def shift_to_start(
    arrival_s: NDArray[np.float64], duration_s: float | None = None
) -> NDArray[np.float64]:
    """Return arrivals that begin at 0 where the clock did not start with them.

    That is so for seconds since 1970, and for a part that was cut from a longer trace: the first
    arrival comes after the end of the run, or, for a run until the last arrival, after more than an
    hour without a request that is also longer than the trace. Other arrivals stay unchanged.
    """
    first = float(arrival_s.min())
    ends = max(float(arrival_s.max()) - first, LONGEST_SILENCE_S)
    late = first >= duration_s if duration_s else first > ends
    return arrival_s - first if late else arrival_s


def _rank_of(ranks: Mapping[str, int] | int, name: str) -> int:
    if isinstance(ranks, int):
        return ranks
    require(
        name in ranks,
        f"ranks: adapter {name!r} has no rank; give one for each adapter of the trace",
    )
    return ranks[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _check_load(load: AdapterLoad) -> None:
    require(
        _is_number(load.rank) and load.rank == int(load.rank) and load.rank >= 1,
        f"adapters[{load.adapter!r}].rank: expected a whole number of at least 1; got "
        f"{shown(load.rank)}",
    )
    require(
        _is_number(load.rate_rps) and load.rate_rps >= 0,
        f"adapters[{load.adapter!r}].rate_rps: expected a rate of at least 0; got "
        f"{shown(load.rate_rps)}",
    )
    for field_name in ("mean_input_tokens", "mean_output_tokens"):
        mean = getattr(load, field_name)
        require(
            mean is None or (_is_number(mean) and mean >= 1),
            f"adapters[{load.adapter!r}].{field_name}: expected a number of at least 1; got "
            f"{shown(mean)}",
        )
