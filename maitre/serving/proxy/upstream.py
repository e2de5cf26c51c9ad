"""Send a request to the replicas of a model, and return the first complete answer."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from maitre.serving.proxy.routes import Routes

CONNECT_TIMEOUT_S = 5.0
EVENT_STREAM = "text/event-stream"
RETRIED = frozenset({500, 502, 503, 504})
# A server-sent event that is longer than this is passed on in pieces.
MAX_EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """A server's response: its whole body, or the open stream of its events.

    `server` names where it came from, for messages.
    """

    status: int
    content_type: str
    body: bytes = b""
    stream: httpx2.Response | None = None
    server: str = ""

    @classmethod
    def error(cls, status: int, message: str) -> "Answer":
        """Return an error of the proxy's own, in OpenAI's form."""
        return cls(status, "application/json", json.dumps(error_document(status, message)).encode())


class StreamCutError(Exception):
    """A server's stream of events ended before it was complete."""


def error_document(status: int, message: str) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": "proxy", "code": status}}


def open_client(transport: httpx2.AsyncBaseTransport | None) -> httpx2.AsyncClient:
    """Return a client for all servers that keeps no cookies.

    One client serves all users: a cookie that a server sets for one must not reach the next.
    """
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
        limits=httpx2.Limits(max_connections=None),
        transport=transport,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
    )


@asynccontextmanager
async def answer_of_a_replica(
    http: httpx2.AsyncClient,
    routes: Routes,
    weights: Mapping[str, float],
    path: str,
    body: bytes,
    choose: random.Random,
) -> AsyncIterator[Answer]:
    """Yield the answer of the first replica that gives one, in an order drawn by the shares.

    A replica that cannot be reached, that answers with an error of its own, or whose answer breaks
    off, is passed over. When all are, the answer is the last one's error, or a 502. The connection
    is closed at the end of the block, whatever ends it.
    """
    failed = Answer.error(502, "no server answered")
    for name in _order(weights, choose):
        url = routes.servers[name].url
        response = None
        try:
            request = http.build_request(
                "POST", f"{url}{path}", content=body, headers={"content-type": "application/json"}
            )
            response = await http.send(request, stream=True)
            kind = response.headers.get("content-type", "application/json")
            streamed = kind.startswith(EVENT_STREAM) and response.status_code not in RETRIED
            answer = Answer(
                response.status_code,
                kind,
                b"" if streamed else await response.aread(),
                response if streamed else None,
                f"{name} at {url}",
            )
        except httpx2.HTTPError as error:
            if response is not None:
                await response.aclose()
            failed = Answer.error(502, f"{name} at {url}: {_reason(error)}")
            continue
        except BaseException:
            if response is not None:
                await response.aclose()
            raise
        if answer.status in RETRIED:
            failed = answer
            continue
        try:
            yield answer
        finally:
            await response.aclose()
        return
    yield failed


async def events(answer: Answer) -> AsyncIterator[bytes]:
    """Yield whole server-sent events of a streamed answer.

    Raises:
        StreamCutError: the server's stream broke off; an event that was incomplete is dropped.
    """
    assert answer.stream is not None
    pending = b""
    try:
        async for chunk in answer.stream.aiter_bytes():
            pending += chunk
            end = _end_of_events(pending)
            if end == 0 and len(pending) > MAX_EVENT_BYTES:
                end = len(pending)
            if end:
                yield pending[:end]
                pending = pending[end:]
    except httpx2.HTTPError as error:
        raise StreamCutError(f"{answer.server}: {_reason(error)}") from error
    if pending:
        yield pending


def _end_of_events(text: bytes) -> int:
    """Return where the last complete event ends: after its blank line."""
    return max(
        text.rfind(mark) + len(mark) if mark in text else 0 for mark in (b"\n\n", b"\r\n\r\n")
    )


def _order(weights: Mapping[str, float], choose: random.Random) -> list[str]:
    left, order = dict(weights), []
    while left:
        names = list(left)
        shares = [max(left[name], 1e-9) for name in names]
        order.append(choose.choices(names, shares)[0])
        del left[order[-1]]
    return order


def _reason(error: httpx2.HTTPError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
