"""The engine's steps, read off when answers' tokens came: equations from loads.

Every request that decodes gets one token a step, so tokens that arrive together are one step's, and
from one such arrival to the next is that step's time, as long as somebody decodes through both. A
request's first token says that its prompt was computed in that step; where the step's budget of
tokens is used up, a part of the next prompt was computed in it too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.points import BASE

TOGETHER_S = 0.012
"""Chunks that arrive within this of each other can be one step's."""


@dataclass
class _Asked:
    """One request of a point, as the steps are put together."""

    sent_s: float
    adapter: str
    prompt: float
    left: float
    chunks: np.ndarray
    done: int = 0


def load_steps(samples: Any, server: MeasuredServer) -> pd.DataFrame:
    """Return one row per step: what each coefficient multiplies, `y` in ms, `point`, `at_s`.

    Columns as `step_equations`; steps before which the engine may have been idle are left out.
    """
    frames = [
        _steps_of(part, server).assign(point=name)
        for name, part in samples[samples["kind"] == "load"].groupby("burst", sort=False)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _steps_of(part: Any, server: MeasuredServer) -> pd.DataFrame:
    asked = [
        _Asked(
            float(row.sent_s),
            str(row.adapter),
            float(row.input_tokens),
            float(row.input_tokens),
            np.asarray(row.chunk_s, float),
        )
        for row in part.itertuples()
        if len(row.chunk_s)
    ]
    rows = []
    end_before_s = -np.inf
    decoding: set[int] = set()
    for end_s, members in _arrivals(asked):
        seen = [i for i in members if asked[i].done]
        first = sorted((i for i in members if not asked[i].done), key=lambda i: asked[i].sent_s)
        kv = sum(asked[i].prompt + asked[i].done for i in seen)
        prefill = sum(asked[i].left for i in first)
        kv += sum(asked[i].prompt for i in first)
        begun = _begin_prompt(asked, members, first, len(seen) + prefill, end_before_s, server)
        whole = decoding <= set(seen) and bool(seen)
        if whole:
            adapters = {asked[i].adapter for i in members} - {BASE}
            rows.append(_row(len(members), len(seen), prefill + begun, kv, len(adapters),
                             1e3 * (end_s - end_before_s), end_s))  # fmt: skip
        for i in members:
            asked[i].left = 0.0
            asked[i].done += 1
        decoding = {i for i in members if asked[i].done < len(asked[i].chunks)}
        end_before_s = end_s
    return pd.DataFrame(rows)


def _arrivals(asked: list[_Asked]) -> list[tuple[float, list[int]]]:
    """Return steps as (time, requests), from the chunks in order.

    A new step begins where a request comes again, or where a pause is longer than the chunks of one
    step take.
    """
    order = sorted((at, i) for i, one in enumerate(asked) for at in one.chunks)
    found: list[tuple[float, list[int]]] = []
    last_s = -np.inf
    for at, i in order:
        if at - last_s > TOGETHER_S or i in found[-1][1]:
            found.append((at, []))
        found[-1][1].append(i)
        last_s = at
    return found


def _begin_prompt(
    asked: list[_Asked],
    members: list[int],
    first: list[int],
    tokens: float,
    began_s: float,
    server: MeasuredServer,
) -> float:
    """Take up the next prompt; return its tokens that fitted into this step beside its `tokens`."""
    room = server.max_num_batched_tokens - tokens
    if room <= 0 or len(members) >= server.max_num_seqs:
        return 0.0
    held = {asked[i].adapter for i in members} - {BASE}
    waiting = [
        i
        for i, one in enumerate(asked)
        if not one.done and i not in first and one.sent_s < began_s
        and (one.adapter in held or len(held) < max(server.max_loras, 1))
    ]  # fmt: skip
    if not waiting:
        return 0.0
    following = min(waiting, key=lambda i: (asked[i].chunks[0], asked[i].sent_s))
    if asked[following].left <= room:
        return 0.0  # it would have been finished: it came to the engine too late for this step
    asked[following].left -= room
    return float(room)


def _row(
    batch: int, decoding: int, prefill: float, kv: float, adapters: int, took_ms: float, at_s: float
) -> dict[str, float]:
    has = 1.0 if adapters else 0.0
    tokens = decoding + prefill
    return {
        "base": 1.0,
        "token": tokens,
        "sequence": float(batch),
        "kv_token": kv,
        "lora": has,
        "adapter": float(adapters),
        "lora_token": has * tokens,
        "lora_prefill": has * prefill,
        "front": 0.0,
        "tokens": tokens,
        "steps": 1.0,
        "y": took_ms,
        "at_s": at_s,
    }
