"""The frame of samples: one row a request, times in seconds since its point's start."""

from typing import Any

import numpy as np

from maitre.twin.errors import require

COLUMNS = (
    "point",
    "kind",
    "role",
    "adapter",
    "rank",
    "due_s",
    "sent_s",
    "first_token_s",
    "last_token_s",
    "end_s",
    "chunk_s",
    "input_tokens",
    "output_tokens",
    "asked_tokens",
    "outcome",
    "error",
    "duration_s",
)
OUTCOMES = ("ok", "unfinished", "failed")
"""`unfinished`: the point ended first; `failed`: the server refused it or was gone."""


def check_samples(samples: Any) -> None:
    """Raise `TwinInputError` where a frame is not one of samples."""
    missing = [name for name in COLUMNS if name not in samples]
    require(not missing, f"samples: no column {', '.join(missing)}")
    require(len(samples) > 0, "samples: there are none")
    strange = set(samples["outcome"]) - set(OUTCOMES)
    require(not strange, f"samples.outcome: {sorted(strange)} is not one of {OUTCOMES}")


def completed_in_time(part: Any) -> Any:
    """Return the rows of one load that were answered in full before its end."""
    return part[(part["outcome"] == "ok") & (part["end_s"] <= part["duration_s"])]


def gaps_ms(part: Any) -> np.ndarray:
    """Return all gaps between the chunks of each request, in ms."""
    found = [np.diff(np.asarray(times, float)) for times in part["chunk_s"] if len(times) > 1]
    return 1e3 * np.concatenate(found) if found else np.zeros(0)


def lateness_ms(samples: Any) -> dict[str, float]:
    """Return how much later than due requests were sent: quantiles over all, in ms."""
    late = 1e3 * (samples["sent_s"] - samples["due_s"]).to_numpy(float)
    late = late[np.isfinite(late)]
    if not len(late):
        return {"p50": float("nan"), "p99": float("nan"), "max": float("nan")}
    p50, p99 = np.quantile(late, [0.5, 0.99])
    return {"p50": float(p50), "p99": float(p99), "max": float(late.max())}
