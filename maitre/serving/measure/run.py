"""Measure a running server within a time budget, and fit its profile.

First come rounds of bursts, for their part of the budget. Then come loads, at fractions of the load
that the twin sustains when it is fitted to the bursts. The validation loads come last; no fit uses
them.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from maitre.progress import ReportLine
from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.measure.load_generator import send_point
from maitre.serving.measure.samples_folder import Measurement
from maitre.twin.fitting.capacity import sustained_rps
from maitre.twin.fitting.design import Budget, MeasuredServer, bursts, loads, warm_up
from maitre.twin.fitting.fit import ProfileIdentity, fit_profile
from maitre.twin.fitting.points import Point
from maitre.twin.fitting.samples import lateness_ms
from maitre.twin.profile import ServerProfile

DRAIN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class MeasureOptions:
    """What to send, and for how long. `adapters` maps the names of loaded adapters to ranks."""

    adapters: Mapping[str, int]
    base_model: str
    budget_s: float = 600.0
    input_tokens: int = 96
    output_tokens: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """The outcome of a measurement: `died` is why it ended early, or empty."""

    points: int
    requests: int
    seconds: float
    lateness_ms: dict[str, float]
    died: str


def load_adapters(client: VllmClient, folders: Mapping[str, Path]) -> dict[str, float]:
    """Load the adapters that the server does not hold; return the milliseconds of each load.

    Raises:
        VllmError: the server refuses an adapter.
    """
    held = set(client.models())
    taken = {}
    for name, folder in folders.items():
        if name in held:
            continue
        begin_s = time.perf_counter()
        client.load_adapter(name, str(folder.resolve()))
        taken[name] = 1e3 * (time.perf_counter() - begin_s)
    return taken


def measure(
    url: str,
    server: MeasuredServer,
    options: MeasureOptions,
    identity: ProfileIdentity,
    measurement: Measurement,
    *,
    progress: ReportLine = lambda _: None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Measured:
    """Measure the server; `measurement` keeps all samples even when the server ends early."""
    return asyncio.run(_measure(url, server, options, identity, measurement, progress, transport))


async def _measure(
    url: str,
    server: MeasuredServer,
    options: MeasureOptions,
    identity: ProfileIdentity,
    measurement: Measurement,
    progress: ReportLine,
    transport: httpx2.AsyncBaseTransport | None,
) -> Measured:
    begin_s = time.perf_counter()
    budget = Budget.of(options.budget_s)
    names = tuple(options.adapters)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(
        base_url=url, timeout=httpx2.Timeout(None, connect=10.0), limits=limits, transport=transport
    ) as http:
        sender = _Sender(http, server, options, measurement, progress)
        await sender.send(warm_up(names))
        turn = 0
        while not sender.died and time.perf_counter() - begin_s < budget.bursts_s:
            for point in bursts(names[: max(server.max_loras, 1)], server, options.seed + turn):
                if time.perf_counter() - begin_s < budget.bursts_s:
                    await sender.send(point)
            if server.max_loras and len(names) > server.max_loras:
                await sender.send(_switches(names, options.seed + turn))
            turn += 1
        for role, seconds in (("fit", budget.fit_loads_s), ("validation", budget.validation_s)):
            if sender.died:
                break
            profile = fit_profile(measurement.read(), server, identity)
            capacity = _capacities(profile, server, options)
            progress(f"expected sustained requests/s by number of adapters: {capacity}")
            left_s = options.budget_s - (time.perf_counter() - begin_s)
            planned_s = min(seconds, left_s if role == "validation" else seconds)
            for point in loads(
                names, capacity, max(planned_s, 5.0), role,
                input_tokens=options.input_tokens, output_tokens=options.output_tokens,
                seed=options.seed + (100 if role == "validation" else 0),
            ):  # fmt: skip
                await sender.send(point)
    return Measured(
        points=sender.sent,
        requests=sender.requests,
        seconds=time.perf_counter() - begin_s,
        lateness_ms=lateness_ms(measurement.read()),
        died=sender.died,
    )


def _switches(names: tuple[str, ...], seed: int) -> Point:
    return Point(
        "switch", "switch", "fit", names, 8, 2, requests=2 * len(names), seed=seed, duration_s=20.0
    )


def _capacities(
    profile: ServerProfile, server: MeasuredServer, options: MeasureOptions
) -> dict[int, float]:
    """Return the requests/s that the twin sustains with one adapter, one per slot, and all."""
    counts = sorted({1, min(server.max_loras, len(options.adapters)) or 1, len(options.adapters)})
    return {
        count: round(
            sustained_rps(profile, server, count, options.input_tokens, options.output_tokens), 3
        )
        for count in counts
        if count
    }


class _Sender:
    """Sends points and stores their samples; stops when the server no longer answers."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        server: MeasuredServer,
        options: MeasureOptions,
        measurement: Measurement,
        progress: ReportLine,
    ) -> None:
        self._http, self._server, self._options = http, server, options
        self._measurement, self._progress = measurement, progress
        self.sent = 0
        self.requests = 0
        self.died = ""

    async def send(self, point: Point) -> None:
        if self.died:
            return
        rows = await send_point(
            self._http, point, self._options.base_model, self._options.adapters,
            self._server.max_model_len,
        )  # fmt: skip
        self._measurement.add(rows, self.sent)
        self.sent += 1
        self.requests += len(rows)
        answered = sum(row["outcome"] == "ok" for row in rows)
        self._progress(f"{point.name}: {answered} of {len(rows)} answered")
        if not await self._is_healthy():
            self.died = f"{self._http.base_url} stopped answering in {point.name}"
            return
        if answered < len(rows):
            await self._drain()

    async def _is_healthy(self) -> bool:
        try:
            return (await self._http.get("/health", timeout=10.0)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def _drain(self) -> None:
        """Wait until the server has aborted the requests that the generator dropped."""
        from maitre.serving.metrics import parse_metrics

        give_up_s = time.perf_counter() + DRAIN_TIMEOUT_S
        while time.perf_counter() < give_up_s:
            try:
                figures = parse_metrics((await self._http.get("/metrics", timeout=10.0)).text)
            except (httpx2.HTTPError, ValueError):
                return
            if not figures.running + figures.waiting > 0:
                return
            await asyncio.sleep(0.2)


def describe_server(
    client: VllmClient, max_num_seqs: int, max_num_batched_tokens: int, max_lora_rank: int
) -> MeasuredServer:
    """Return the server's own figures, together with the limits that it does not report.

    Raises:
        VllmError: the metrics lack the size of the KV cache, or are those of several engines.
    """
    figures = client.metrics()
    if figures.engines > 1:
        raise VllmError(
            f"{client.url}: expected one engine, as a profile is of one; got {figures.engines} "
            "behind this address; measure a server without data parallelism"
        )
    if figures.kv_cache_tokens is None:
        raise VllmError(
            f"{client.url}/metrics: expected vllm:cache_config_info with num_gpu_blocks; got none"
        )
    return MeasuredServer(
        max_loras=figures.max_loras or 0,
        max_lora_rank=max_lora_rank if figures.max_loras else 0,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=client.max_model_len() or 2048,
        kv_cache_tokens=figures.kv_cache_tokens,
    )
