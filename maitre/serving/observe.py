"""Observe traffic: request counts by adapter from the gateway, queues from the servers.

vLLM labels its counters with the server's first name, adapters included, so they do not
distinguish adapters. The proxy counts by model name, and so may any other gateway.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from pydantic import TypeAdapter, ValidationError

from maitre.errors import UserError
from maitre.serving.client import VllmClient
from maitre.serving.errors import MetricsError, VllmError
from maitre.serving.metrics import metric_samples
from maitre.serving.proxy.proxy import REQUESTS
from maitre.serving.proxy.routes import RoutedServer, Routes

SLOTS, CAPACITY = "slots", "capacity"
SCRAPE_TIMEOUT_S = 10.0
SCRAPES_AT_ONCE = 16


@dataclass(frozen=True)
class ServerSample:
    """One server at one time; token and request counts start at the server's start."""

    server: str
    running: float
    waiting: float
    waiting_for_slot: float
    kv_usage: float
    prompt_tokens: float
    output_tokens: float
    requests: float


@dataclass(frozen=True)
class TrafficSample:
    """All servers at one time, and the gateway's request counts by model.

    `unseen` maps each server that could not be read to the reason; `gateway` is the reason why the
    gateway could not be read, or empty.
    """

    at_s: float
    servers: tuple[ServerSample, ...]
    requests: Mapping[str, float]
    unseen: Mapping[str, str] = field(default_factory=dict)
    gateway: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the sample as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> "TrafficSample":
        """Read a sample that `to_dict` made.

        Raises:
            UserError: the document is not a sample.
        """
        try:
            return _SAMPLE.validate_python(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise UserError(f"expected a traffic sample; {where}: {first['msg']}") from error


_SAMPLE = TypeAdapter(TrafficSample)


def sample_traffic(
    routes: Routes, at_s: float, gateway_metrics: str | None = None, gateway_problem: str = ""
) -> TrafficSample:
    """Scrape every server of the routes; `unseen` names those that cannot be read.

    `gateway_metrics` is the text of the gateway's `/metrics`. It is None when the gateway did not
    answer; `gateway_problem` then holds the reason.
    """
    found, unseen = [], {}
    servers = sorted(routes.servers.items())
    with ThreadPoolExecutor(SCRAPES_AT_ONCE) as pool:
        for (name, _), read in zip(servers, pool.map(_sample_or_problem, servers), strict=True):
            if isinstance(read, ServerSample):
                found.append(read)
            else:
                unseen[name] = read
    counts: dict[str, float] = {}
    try:
        counts = requests_by_model(gateway_metrics) if gateway_metrics is not None else {}
    except MetricsError as error:
        gateway_problem = f"the gateway's /metrics: {error}"
    return TrafficSample(at_s, tuple(found), counts, unseen, gateway_problem)


def _sample_or_problem(server: tuple[str, RoutedServer]) -> ServerSample | str:
    name, url = server[0], server[1].url
    try:
        with VllmClient(url, timeout_s=SCRAPE_TIMEOUT_S) as client:
            figures = client.metrics().required(url)
    except VllmError as error:
        return str(error)
    return ServerSample(
        name,
        figures.running,
        figures.waiting,
        figures.waiting_by_reason.get("deferred", 0.0),
        figures.kv_usage,
        figures.prompt_tokens,
        figures.output_tokens,
        figures.requests,
    )


def requests_by_model(gateway_metrics: str) -> dict[str, float]:
    """Return the request counts in a gateway's `/metrics`, by model name.

    Raises:
        MetricsError: the text is not Prometheus text.
    """
    counts: dict[str, float] = {}
    for sample in metric_samples(gateway_metrics):
        if sample.name == f"{REQUESTS}_total" and "model" in sample.labels:
            model = sample.labels["model"]
            counts[model] = counts.get(model, 0.0) + sample.value
    return counts


def request_counts(samples: Sequence[TrafficSample]) -> tuple[dict[str, float], float]:
    """Return the requests by model between the first and the last sample, and their time span.

    Counters are compared from each sample to the next. A counter that is lower than before was
    reset: its whole value counts. Samples without the gateway are skipped.
    """
    answered = [sample for sample in samples if not sample.gateway]
    requests: dict[str, float] = {}
    for before, after in pairwise(answered):
        for model, count in after.requests.items():
            earlier = before.requests.get(model, 0.0)
            more = count - earlier if count >= earlier else count
            requests[model] = requests.get(model, 0.0) + more
    return requests, answered[-1].at_s - answered[0].at_s if len(answered) > 1 else 0.0


def throughput_tps(samples: Sequence[TrafficSample]) -> dict[str, float]:
    """Return each server's tokens per second over the samples, prompt and output together."""
    tokens: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for before, after in pairwise(samples):
        earlier = {server.server: server for server in before.servers}
        for server in after.servers:
            was = earlier.get(server.server)
            if was is None:
                continue
            now, then = _tokens(server), _tokens(was)
            tokens[server.server] = tokens.get(server.server, 0.0) + (
                now - then if now >= then else now
            )
            seconds[server.server] = seconds.get(server.server, 0.0) + after.at_s - before.at_s
    return {name: tokens[name] / span for name, span in seconds.items() if span > 0}


def _tokens(server: ServerSample) -> float:
    return server.prompt_tokens + server.output_tokens


def starving_servers(before: TrafficSample, after: TrafficSample) -> dict[str, str]:
    """Return the servers whose queue grew and still holds requests, with the reason.

    `slots`: most requests wait for an adapter slot. `capacity`: most wait for room in the batch or
    the KV cache.
    """
    earlier = {server.server: server for server in before.servers}
    found = {}
    for server in after.servers:
        was = earlier.get(server.server)
        if was is None or server.waiting <= max(was.waiting, server.running):
            continue
        slots = server.waiting_for_slot > 0.5 * server.waiting
        found[server.server] = SLOTS if slots else CAPACITY
    return found
