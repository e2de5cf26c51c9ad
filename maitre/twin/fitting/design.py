"""Which points to measure within a time budget.

Bursts span batch, distinct adapters and context length, in random order and over and over, so that
a server that slows down for a while does not pass for a cost of what was measured then. Loads are
set by what the bursts said: shares of the rate that the twin, fitted to them, sustains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maitre.twin.errors import require
from maitre.twin.fitting.points import BASE, Point

BATCHES = (1, 2, 4, 8, 16, 32)
CONTEXTS = (16, 96)
PROMPTS = (8, 32, 96, 192, 384, 640)
MOST_PROMPT_TOKENS = 512
"""Of a burst, all prompts together: on a CPU an adapter's prefill takes milliseconds a token."""
BURST_LIMIT_S = 20.0
BURST_OUTPUT_TOKENS = 20
FIT_SHARES = (0.7, 1.0, 1.5)
MOST_RPS = 60.0
"""What one load generator sends without being late itself, with room to spare."""
VALIDATION_SHARES = (0.4, 0.7, 0.9, 1.15, 1.5, 2.0)


@dataclass(frozen=True)
class MeasuredServer:
    """What of a server decides which points make sense; slots 0: it takes no adapters."""

    max_loras: int
    max_lora_rank: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_cache_tokens: int


@dataclass(frozen=True)
class Budget:
    """How the time is divided, in seconds."""

    bursts_s: float
    fit_loads_s: float
    validation_s: float

    @classmethod
    def of(cls, total_s: float) -> "Budget":
        """Return three tenths for bursts, a seventh for loads of the fit, half for validation.

        Raises:
            TwinInputError: under a minute, which measures nothing.
        """
        require(total_s >= 60, f"budget: {total_s:g} s is under a minute")
        return cls(0.3 * total_s, 0.14 * total_s, 0.5 * total_s)


def warm_up(adapters: Sequence[str]) -> Point:
    """Ask each adapter once, one after the other: its first use is slow and measures nothing."""
    names = (BASE, *adapters)
    return Point("warm-up", "warm_up", "fit", names, 8, 4, requests=len(names))


def bursts(adapters: Sequence[str], server: MeasuredServer, seed: int) -> list[Point]:
    """Return one round of bursts and prefill probes, in random order."""
    batches = [b for b in BATCHES if b <= server.max_num_seqs]
    points = []
    for batch in batches:
        for context in [c for c in CONTEXTS if c * batch <= MOST_PROMPT_TOKENS]:
            for distinct in _adapter_counts(batch, len(adapters), server.max_loras):
                names = tuple(adapters[:distinct]) or (BASE,)
                points.append(
                    Point(
                        f"burst-b{batch}-l{distinct}-c{context}",
                        "burst",
                        "fit",
                        names,
                        min(context, server.max_model_len // 2),
                        BURST_OUTPUT_TOKENS,
                        requests=batch,
                        duration_s=BURST_LIMIT_S,
                    )
                )
    alone = [(BASE,), *([tuple(adapters[:1])] if adapters else [])]
    longest = min(server.max_num_batched_tokens, server.max_model_len - 8)
    points += [
        Point(f"prefill-p{prompt}-l{int(names != (BASE,))}", "burst", "fit", names, prompt, 4, 1)
        for prompt in PROMPTS
        for names in alone
        if prompt < longest
    ]
    order = np.random.default_rng(seed).permutation(len(points))
    return [points[i] for i in order]


def _adapter_counts(batch: int, adapters: int, slots: int) -> list[int]:
    """Return how many distinct adapters a burst of a batch may have: none, one, a few, the most."""
    most = min(batch, adapters, slots)
    return sorted({0, min(1, most), min(4, most), most})


def loads(
    adapters: Sequence[str],
    capacity_rps: Mapping[int, float],
    total_s: float,
    role: str,
    *,
    input_tokens: int,
    output_tokens: int,
    seed: int,
) -> list[Point]:
    """Return loads at shares of what the server is expected to sustain, `total_s` in all.

    `capacity_rps` gives it by the number of adapters asked; loads take the numbers in turn, the
    largest first, so that more adapters than slots are asked below and above what is sustained.
    """
    shares = FIT_SHARES if role == "fit" else VALIDATION_SHARES
    counts = sorted(capacity_rps, reverse=True)
    names = list(adapters)
    points = []
    for place, share in enumerate(shares):
        count = counts[place % len(counts)]
        points.append(
            Point(
                f"{role}-{count}-adapters-{share:g}",
                "load",
                "validation" if role == "validation" else "fit",
                tuple(names[:count]) or (BASE,),
                input_tokens,
                output_tokens,
                rate_rps=share * capacity_rps[count],
                duration_s=total_s / len(shares),
                seed=seed + place,
            )
        )
    return points
