"""The open-loop load generator: it sends requests when they are due, whatever the server does.

One event loop, one connection per request, streamed responses; the time of each chunk is recorded.
Each sample also records how late the request was sent, so that a slow generator is visible.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx2

from maitre.serving.client import refusal
from maitre.serving.errors import VllmError
from maitre.twin.fitting.points import BASE, PlannedRequest, Point, planned_requests

Row = dict[str, Any]
FIRST_TOKEN_ID, LAST_TOKEN_ID = 1_000, 9_000
"""Prompts are random tokens of a range that is ordinary text in every vocabulary."""


async def send_point(
    http: httpx2.AsyncClient,
    point: Point,
    base_model: str,
    ranks: Mapping[str, int],
    max_total_tokens: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Row]:
    """Send a point's requests; return one row per request, including those that failed.

    The requests of bursts and loads are sent when they are due; those of warm-ups and switches one
    after the other. At the end of the point open requests are dropped; vLLM then aborts them.
    """
    planned = planned_requests(point, max_total_tokens)
    begin_s = clock()
    rows = [_unfinished_row(point, request, ranks) for request in planned]

    async def send_when_due(request: PlannedRequest, row: Row) -> None:
        if request.due_s > clock() - begin_s:
            await sleep(request.due_s - (clock() - begin_s))
        row["sent_s"] = clock() - begin_s
        await _send_request(http, base_model, request, row, lambda: clock() - begin_s)

    async def send_all() -> None:
        if point.kind in ("burst", "load"):
            await asyncio.gather(
                *(send_when_due(r, row) for r, row in zip(planned, rows, strict=True))
            )
            return
        for request, row in zip(planned, rows, strict=True):
            row["due_s"] = clock() - begin_s
            await send_when_due(request, row)

    limit_s = point.duration_s
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(send_all(), timeout=limit_s)
    if point.kind == "load" and (rest_s := limit_s - (clock() - begin_s)) > 0:
        await sleep(rest_s)
    return rows


async def _send_request(
    http: httpx2.AsyncClient,
    base_model: str,
    request: PlannedRequest,
    row: Row,
    now_s: Callable[[], float],
) -> None:
    chunks: list[float] = row["chunk_s"]
    try:
        async with http.stream(
            "POST", "/v1/completions", json=_body(request, base_model)
        ) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode(errors="replace")
                row.update(outcome="failed", error=f"{answer.status_code}: {refusal(text)}")
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                at_s = now_s()
                if line == "data: [DONE]":
                    break
                tokens = _record_chunk(line, row)
                if tokens:
                    chunks.append(at_s)
    except (httpx2.HTTPError, VllmError) as error:
        row.update(outcome="failed", error=str(error) or type(error).__name__)
        return
    if not chunks:
        row.update(outcome="failed", error="the response had no token")
        return
    row.update(
        first_token_s=chunks[0], last_token_s=chunks[-1], end_s=now_s(), outcome="ok", error=""
    )


def _record_chunk(line: str, row: Row) -> bool:
    """Record a chunk's token counts in the row; return whether the chunk has tokens."""
    try:
        chunk = json.loads(line[6:])
        usage = chunk.get("usage")
        if usage:
            row["output_tokens"] = int(usage["completion_tokens"])
            row["input_tokens"] = int(usage["prompt_tokens"])
        return bool(chunk.get("choices"))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
        raise VllmError(f"expected vLLM's chunks; got {line[:80]!r}") from e


def _body(request: PlannedRequest, base_model: str) -> dict[str, Any]:
    draw = random.Random(request.seed)
    prompt = [draw.randint(FIRST_TOKEN_ID, LAST_TOKEN_ID) for _ in range(request.input_tokens)]
    return {
        "model": base_model if request.adapter == BASE else request.adapter,
        "prompt": prompt,
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _unfinished_row(point: Point, request: PlannedRequest, ranks: Mapping[str, int]) -> Row:
    nan = float("nan")
    return {
        "point": point.name,
        "kind": point.kind,
        "role": point.role,
        "adapter": request.adapter,
        "rank": ranks.get(request.adapter, 0),
        "due_s": request.due_s,
        "sent_s": nan,
        "first_token_s": nan,
        "last_token_s": nan,
        "end_s": nan,
        "chunk_s": [],
        "input_tokens": request.input_tokens,
        "output_tokens": 0,
        "asked_tokens": request.output_tokens,
        "outcome": "unfinished",
        "error": "the point ended first",
        "duration_s": point.duration_s,
    }


def not_sent(rows: Sequence[Row]) -> int:
    """Return how many requests were due but never sent."""
    return sum(row["sent_s"] != row["sent_s"] for row in rows)
