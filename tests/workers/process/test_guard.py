"""What a worker's HTTP server takes from a client that it does not know, or that is slow."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request

from maitre.workers.pool.token import TokenError
from maitre.workers.process.guard import RequestGuard
from maitre.workers.process.header_timeout import HeaderTimeoutProtocol
from tests.workers.live import until
from tests.workers.worker_thread import TOKEN, Held, Steps

LIMIT = 1000
PATIENCE_S = 0.5


class QuickTimeout(HeaderTimeoutProtocol):
    header_timeout_s = PATIENCE_S


@pytest.fixture
def bodies() -> list[bytes]:
    """The bodies that have reached the application."""
    return []


@pytest.fixture
def port(bodies: list[bytes]) -> Iterator[int]:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        bodies.append(await request.body())
        return {"bytes": len(bodies[-1])}

    @app.get("/open")
    def opened() -> dict[str, Any]:
        return {}

    app.add_middleware(
        RequestGuard,
        token=TOKEN,
        open_paths=("/open",),
        max_body_bytes=LIMIT,
        body_timeout_s=PATIENCE_S,
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=QuickTimeout, log_config=None))
    threading.Thread(target=server.run, daemon=True).start()
    until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True


def talk(port: int, text: bytes) -> bytes:
    """Send this and nothing more; return everything until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(text)
        got = b""
        while part := connection.recv(65536):
            got += part
        return got


def head(length: int, token: str | None = TOKEN, path: str = "/echo") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: worker", f"Content-Length: {length}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("token", [None, "", "guessed", TOKEN + "x", TOKEN[:-1]])
def test_without_the_token_the_answer_comes_before_the_body(
    port: int, bodies: list[bytes], token: str | None
) -> None:
    began_s = time.monotonic()
    # The body of 300 MB is announced and never sent.
    answer = talk(port, head(300_000_000, token))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert time.monotonic() - began_s < PATIENCE_S * 10
    assert bodies == []


def test_a_large_body_is_refused_announced_or_not(port: int, bodies: list[bytes]) -> None:
    assert talk(port, head(LIMIT + 1)).startswith(b"HTTP/1.1 413 ")
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"%x\r\n" % (LIMIT + 1) + b"x" * (LIMIT + 1) + b"\r\n"
    assert talk(port, chunked + chunk).startswith(b"HTTP/1.1 413 ")
    assert bodies == []
    whole = head(LIMIT).replace(b"Host:", b"Connection: close\r\nHost:") + b"x" * LIMIT
    assert talk(port, whole).startswith(b"HTTP/1.1 200 ")
    assert bodies == [b"x" * LIMIT]


@pytest.mark.parametrize("path", ["/echo", "/open"])
def test_half_a_body_ends_in_time(port: int, bodies: list[bytes], path: str) -> None:
    assert talk(port, head(10, path=path) + b"half").startswith(b"HTTP/1.1 408 ")
    assert bodies == []


@pytest.mark.parametrize("text", [b"", b"POST /echo HTT", head(5)[:-4]])
def test_half_of_the_headers_are_closed_in_time(port: int, text: bytes) -> None:
    assert talk(port, text) == b""


def test_half_of_a_second_request_is_closed_in_time(port: int) -> None:
    first = head(1) + b"x"
    answer = talk(port, first + b"POST /echo HTT")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_many_half_requests_leave_no_connection_open(port: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for connection in connections:
        connection.sendall(b"POST /echo HTTP/1.1\r\n")
        connection.settimeout(20)
    for connection in connections:
        assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize(
    "token", ["", " ", "short", "x" * 15, "with a space in the middle", "ä" * 20]
)
def test_an_interface_without_a_safe_token_is_not_made(token: str) -> None:
    with pytest.raises(TokenError, match="expected a token of at least 16"):
        RequestGuard(FastAPI(), token)


@pytest.mark.parametrize(
    "body",
    [
        b'{"attempt": "a", "run_id": "r", "number": NaN}',
        b'{"attempt": "a", "run_id": "r", "number": 1e400}',
        b'{"attempt": "\\ud800", "run_id": "r"}',
        b'{"attempt": "a", "run_id": "../../r"}',
        b'{"attempt": "a", "run_id": "r", "number": 0}',
        b'{"attempt": "a"}',
        b"\xff\xfe",
        b"[" * 20_000,
        b"nonsense",
        b"",
    ],
)
def test_a_body_that_is_not_a_claim_is_the_clients_error(tmp_path: Path, body: bytes) -> None:
    held = Held(tmp_path, Steps())
    try:
        request = urllib.request.Request(
            f"{held.client.url}/claims",
            data=body,
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code in (400, 422)
        assert json.loads(json.dumps(held.client.status().to_json()))["claim"] is None
    finally:
        held.worker.drain()
        held.server.should_exit = True
