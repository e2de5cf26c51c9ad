"""What traffic servers see: rates by adapter from the proxy, queues from the servers.

vLLM's counters carry the server's name for every request, adapters included, so they cannot tell
adapters apart. The proxy counts by model name; any gateway with such a counter would do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from resources.vllm.client import VllmClient
from resources.vllm.proxy import REQUESTS
from resources.vllm.routes import Routes


@dataclass(frozen=True)
class ServerSight:
    """One server at one time; token and request counts run since its start."""

    server: str
    running: float
    waiting: float
    waiting_for_slot: float
    kv_usage: float
    prompt_tokens: float
    output_tokens: float
    requests: float


@dataclass(frozen=True)
class Sight:
    """All servers at one time, and the requests by model that the proxy has counted so far."""

    at_s: float
    servers: tuple[ServerSight, ...]
    requests: Mapping[str, float]


def look(routes: Routes, proxy_metrics: str, at_s: float) -> Sight:
    """Scrape every server of the routes.

    Raises:
        VllmError: one cannot be reached, or its version reports other figures (named).
    """
    found = []
    for name, server in sorted(routes.servers.items()):
        with VllmClient(server.url, timeout_s=10.0) as client:
            figures = client.metrics().required(server.url)
        found.append(
            ServerSight(
                name,
                figures.running,
                figures.waiting,
                figures.waiting_by_reason.get("deferred", 0.0),
                figures.kv_usage,
                figures.prompt_tokens,
                figures.output_tokens,
                figures.requests,
            )
        )
    return Sight(at_s, tuple(found), requests_by_model(proxy_metrics))


def requests_by_model(proxy_metrics: str) -> dict[str, float]:
    """The requests that a proxy's `/metrics` counts, by model name."""
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[str, float] = {}
    for family in text_string_to_metric_families(proxy_metrics):
        for sample in family.samples:
            if sample.name == f"{REQUESTS}_total":
                model = sample.labels["model"]
                counts[model] = counts.get(model, 0.0) + float(sample.value)
    return counts


def rates_rps(before: Sight, after: Sight) -> dict[str, float]:
    """Requests per second by model between two sights.

    A counter that went back started anew: what it counts since then is all that is known.

    Raises:
        ValueError: no time has passed between them.
    """
    span_s = after.at_s - before.at_s
    if span_s <= 0:
        raise ValueError(f"no time has passed between the two sights ({span_s:g} s)")
    rates = {}
    for model, count in after.requests.items():
        earlier = before.requests.get(model, 0.0)
        rates[model] = (count - earlier if count >= earlier else count) / span_s
    return rates


def starving(before: Sight, after: Sight) -> dict[str, str]:
    """Servers whose queue grew and that keep requests waiting, with the reason.

    `slots`: most wait for an adapter slot; `capacity`: for room in the batch or the KV cache.
    """
    earlier = {server.server: server for server in before.servers}
    found = {}
    for server in after.servers:
        was = earlier.get(server.server)
        if was is None or server.waiting <= max(was.waiting, server.running):
            continue
        slots = server.waiting_for_slot > 0.5 * server.waiting
        found[server.server] = "slots" if slots else "capacity"
    return found


def to_dict(sight: Sight) -> dict[str, object]:
    """A sight as plain JSON values."""
    return asdict(sight)


def from_dict(document: Mapping[str, object]) -> Sight:
    """A sight that `to_dict` made."""
    servers = document["servers"]
    requests = document["requests"]
    assert isinstance(servers, list | tuple)
    assert isinstance(requests, Mapping)
    return Sight(
        float(str(document["at_s"])),
        tuple(ServerSight(**entry) for entry in servers),
        {str(model): float(count) for model, count in requests.items()},
    )
