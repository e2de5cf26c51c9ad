"""Steps are read off token arrivals of an engine whose every step is known."""

from collections import deque
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.steps import load_steps

SERVER = MeasuredServer(4, 16, 8, 64, 2048, 40_000)


def step_s(decoding: int, prefill: int) -> float:
    return 0.03 + 0.002 * decoding + 0.004 * prefill


def served(rate_rps: float, seed: int) -> tuple[list[dict], list[tuple[int, int]]]:
    """Requests of one adapter through a chunked scheduler; and (decoding, prefill) of each step."""
    random = np.random.default_rng(seed)
    sent = np.cumsum(random.exponential(1 / rate_rps, 60))
    asked: list[dict[str, Any]] = [
        {"sent_s": float(at), "left": int(random.integers(5, 60)), "chunk_s": [],
         "output": int(random.integers(4, 20))} for at in sent
    ]  # fmt: skip
    for one in asked:
        one["input_tokens"] = one["left"]
    todo, running, steps, now_s = deque(asked), [], [], 0.0
    while todo or running:
        if not running and todo[0]["sent_s"] > now_s:
            now_s = todo[0]["sent_s"]
        budget = SERVER.max_num_batched_tokens
        decoding = [one for one in running if not one["left"]]
        budget -= len(decoding)
        prefill, members = 0, list(decoding)
        while todo and todo[0]["sent_s"] <= now_s and len(running) < SERVER.max_num_seqs:
            running.append(todo.popleft())
        for one in [one for one in running if one["left"]]:
            part = min(one["left"], budget)
            one["left"] -= part
            budget, prefill = budget - part, prefill + part
            if not one["left"]:
                members.append(one)
            if not budget:
                break
        now_s += step_s(len(decoding), prefill)
        steps.append((len(decoding), prefill))
        for place, one in enumerate(members):
            one["chunk_s"].append(now_s + 0.0003 * place)
        running = [one for one in running if len(one["chunk_s"]) < one["output"]]
    return asked, steps


def frame(asked: list[dict]) -> pd.DataFrame:
    rows = [{**one, "kind": "load", "burst": 0, "point": "p", "adapter": "a"} for one in asked]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("rate_rps", [1.0, 6.0, 40.0])
def test_the_steps_of_an_engine_are_found_again(rate_rps: float) -> None:
    asked, steps = served(rate_rps, seed=3)
    found = load_steps(frame(asked), SERVER)
    assert len(found) > 0.5 * sum(decoding > 0 for decoding, _ in steps)
    expected = 1e3 * step_s(0, 0) + 2.0 * (found["tokens"] - found["lora_prefill"])
    expected += 4.0 * found["lora_prefill"]
    off = np.abs(found["y"] / expected - 1)
    assert np.median(off) < 0.02, "most steps exactly, but for when their first token came"
    assert found["y"].sum() == pytest.approx(expected.sum(), rel=0.05)
    assert found["tokens"].max() <= SERVER.max_num_batched_tokens


def test_there_are_no_steps_without_loads() -> None:
    asked, _ = served(1.0, seed=0)
    assert load_steps(frame(asked).assign(kind="burst"), SERVER).empty
