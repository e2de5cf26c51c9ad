"""What traffic servers see: rates by adapter from the gateway, queues from the servers.

vLLM's counters carry the server's name for every request, adapters included, so they cannot tell
adapters apart. The proxy counts by model name; any gateway with such a counter would do.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.proxy.proxy import REQUESTS
from maitre.serving.proxy.routes import RoutedServer, Routes

SLOTS, CAPACITY = "slots", "capacity"
SCRAPE_TIMEOUT_S = 10.0
SCRAPES_AT_ONCE = 16


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
    """All servers at one time, and the requests by model that the gateway has counted so far.

    `unseen` says of servers that could not be read, why; `gateway` the same of the gateway.
    """

    at_s: float
    servers: tuple[ServerSight, ...]
    requests: Mapping[str, float]
    unseen: Mapping[str, str] = field(default_factory=dict)
    gateway: str = ""

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> "Sight":
        """A sight that `to_dict` made."""
        servers, requests = document["servers"], document["requests"]
        unseen = document.get("unseen") or {}
        assert isinstance(servers, list | tuple)
        assert isinstance(requests, Mapping)
        assert isinstance(unseen, Mapping)
        return cls(
            float(str(document["at_s"])),
            tuple(ServerSight(**entry) for entry in servers),
            {str(model): float(count) for model, count in requests.items()},
            {str(server): str(reason) for server, reason in unseen.items()},
            str(document.get("gateway") or ""),
        )


def look(
    routes: Routes, at_s: float, gateway_metrics: str | None = None, gateway_problem: str = ""
) -> Sight:
    """Scrape every server of the routes; one that cannot be read is named in `unseen`.

    `gateway_metrics` is what the gateway answers at `/metrics`; None where it did not answer, with
    `gateway_problem` saying why.
    """
    found, unseen = [], {}
    servers = sorted(routes.servers.items())
    with ThreadPoolExecutor(SCRAPES_AT_ONCE) as pool:
        for (name, _), seen in zip(servers, pool.map(_sight_or_problem, servers), strict=True):
            if isinstance(seen, ServerSight):
                found.append(seen)
            else:
                unseen[name] = seen
    counts = requests_by_model(gateway_metrics) if gateway_metrics is not None else {}
    return Sight(at_s, tuple(found), counts, unseen, gateway_problem)


def _sight_or_problem(server: tuple[str, RoutedServer]) -> ServerSight | str:
    name, url = server[0], server[1].url
    try:
        with VllmClient(url, timeout_s=SCRAPE_TIMEOUT_S) as client:
            figures = client.metrics().required(url)
    except VllmError as error:
        return str(error)
    return ServerSight(
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
    """The requests that a gateway's `/metrics` counts, by model name."""
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[str, float] = {}
    for family in text_string_to_metric_families(gateway_metrics):
        for sample in family.samples:
            if sample.name == f"{REQUESTS}_total":
                model = sample.labels["model"]
                counts[model] = counts.get(model, 0.0) + float(sample.value)
    return counts


def counted(sights: Sequence[Sight]) -> tuple[dict[str, float], float]:
    """Requests by model that came between the first and the last sight, and over how many seconds.

    Counters are compared from each sight to the next. One that went back started anew: what it
    counts since then is all that is known. Sights without the gateway are passed over.
    """
    heard = [sight for sight in sights if not sight.gateway]
    requests: dict[str, float] = {}
    for before, after in pairwise(heard):
        for model, count in after.requests.items():
            earlier = before.requests.get(model, 0.0)
            more = count - earlier if count >= earlier else count
            requests[model] = requests.get(model, 0.0) + more
    return requests, heard[-1].at_s - heard[0].at_s if len(heard) > 1 else 0.0


def throughput_tps(sights: Sequence[Sight]) -> dict[str, float]:
    """Tokens per second, prompt and answer, that each server took and gave over the sights."""
    tokens: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for before, after in pairwise(sights):
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


def _tokens(server: ServerSight) -> float:
    return server.prompt_tokens + server.output_tokens


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
        found[server.server] = SLOTS if slots else CAPACITY
    return found
