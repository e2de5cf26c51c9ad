"""Samples of bursts as equations of the step time's coefficients.

While every request of a burst decodes, the gaps between chunks are step times of a batch that is
known in full. A lone request's time to first token is the step that prefills it, and the fixed
way to the engine and back.
"""

from typing import Any

import numpy as np
import pandas as pd

from maitre.twin.fitting.points import BASE
from maitre.twin.fitting.samples import gaps_ms

TERMS = (
    "base",
    "token",
    "over_small",
    "sequence",
    "kv_token",
    "lora",
    "adapter",
    "lora_token",
    "lora_prefill",
    "lora_over",
    "front",
)

CLUMPED_PART = 0.5


def step_equations(samples: Any) -> pd.DataFrame:
    """Return one row per burst and lone prefill: what each coefficient multiplies, and `y` in ms.

    Columns besides: `tokens` (of the step), `steps` (how many gaps the median is of), `point`.
    `over_small` and `lora_over` are left to the fit, which knows where they begin. Bursts with a
    failed request are left out.
    """
    rows = []
    for name, part in samples[samples["kind"] == "burst"].groupby("burst", sort=False):
        if (part["outcome"] != "ok").any():
            continue
        found = decode_equation(part)
        if found is not None:
            rows.append({**found, "point": part["point"].iloc[0], "burst": name})
        if len(part) == 1:
            rows.append({**prefill_equation(part), "point": part["point"].iloc[0], "burst": name})
    return pd.DataFrame(rows)


def decode_equation(part: Any) -> dict[str, float] | None:
    """Return the median gap while all of a burst's requests decode; None for fewer than 4 gaps.

    Or where tokens came in clumps, several steps' at once: the median gap is then no step's time.
    """
    begin_s, end_s = part["first_token_s"].max(), part["last_token_s"].min()
    within = part.assign(
        chunk_s=[
            [t for t in times if begin_s - 1e-9 <= t <= end_s + 1e-9] for times in part["chunk_s"]
        ]
    )
    gaps = gaps_ms(within)
    if len(gaps) < 4 * len(part) or np.median(gaps) < CLUMPED_PART * gaps.mean():
        return None
    batch = float(len(part))
    seen = [np.searchsorted(np.asarray(t), 0.5 * (begin_s + end_s)) for t in part["chunk_s"]]
    adapters = set(part["adapter"]) - {BASE}
    has = 1.0 if adapters else 0.0
    return {
        "base": 1.0,
        "token": batch,
        "sequence": batch,
        "kv_token": float(part["input_tokens"].sum() + np.sum(seen)),
        "lora": has,
        "adapter": float(len(adapters)),
        "lora_token": has * batch,
        "lora_prefill": 0.0,
        "front": 0.0,
        "tokens": batch,
        "steps": float(len(gaps)) / batch,
        "y": float(np.median(gaps)),
    }


def prefill_equation(part: Any) -> dict[str, float]:
    """Return a lone request's time to first token."""
    row = part.iloc[0]
    prompt = float(row["input_tokens"])
    has = 0.0 if row["adapter"] == BASE else 1.0
    return {
        "base": 1.0,
        "token": prompt,
        "sequence": 1.0,
        "kv_token": prompt,
        "lora": has,
        "adapter": has,
        "lora_token": has * prompt,
        "lora_prefill": has * prompt,
        "front": 1.0,
        "tokens": prompt,
        "steps": 1.0,
        "y": 1e3 * float(row["first_token_s"] - row["sent_s"]),
    }
