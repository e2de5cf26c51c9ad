"""Clients that leave, servers that break off, damaged routes, bodies that are no JSON."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.files import write_text
from maitre.serving.proxy.proxy import proxy_app
from maitre.serving.proxy.request_body import BodyLimits, RefusedRequestError, parse_object
from maitre.serving.proxy.routes import RoutedServer, Routes
from tests.serving.proxy.servers import Upstream, answering, serving, wait_for

JSON_LENGTH_TOO_LARGE = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"half":'
)
STREAM_CUT = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b'13\r\ndata: {"text": 1}\n\n\r\n8\r\ndata: {"\r\n'
)


def no_embedder(base_model: str) -> None:
    raise AssertionError("no tuned prompt is routed here")


@contextmanager
def proxied(folder: Path, urls: dict[str, str], limits: BodyLimits | None = None) -> Iterator[str]:
    """Serve the proxy before servers that share the model `m`; yield its address."""
    servers = {name: RoutedServer(url, "base") for name, url in urls.items()}
    weights = dict.fromkeys(urls, 1.0)
    write_text(folder / "routes.json", Routes(servers, {"m": weights}).to_json())
    with serving(proxy_app(folder / "routes.json", no_embedder, limits=limits)) as url:
        yield url


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def proxy(tmp_path: Path, upstream: Upstream) -> Iterator[str]:
    with serving(upstream) as server, proxied(tmp_path, {"s": server}) as url:
        yield url


def completion(proxy: str, **body: object) -> httpx2.Response:
    return httpx2.post(f"{proxy}/v1/completions", json={"model": "m", **body}, timeout=10)


def send_raw(proxy: str, content: bytes) -> httpx2.Response:
    return httpx2.post(f"{proxy}/v1/completions", content=content, timeout=10)


@pytest.mark.parametrize("stream", [False, True])
def test_the_server_sees_that_a_client_has_left(
    proxy: str, upstream: Upstream, stream: bool
) -> None:
    address = urlsplit(proxy)
    body = json.dumps({"model": "m", "prompt": "wait", "stream": stream})
    request = (
        f"POST /v1/completions HTTP/1.1\r\nhost: p\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    )
    clients = []
    for _ in range(10):
        client = socket.create_connection((address.hostname, address.port))
        client.sendall(request.encode())
        clients.append(client)
    wait_for(lambda: upstream.open == 10)
    for client in clients:
        client.close()
    wait_for(lambda: upstream.open == 0)
    assert upstream.left == 10
    if not stream:
        wait_for(lambda: 'status="499"} 10.0' in httpx2.get(f"{proxy}/metrics").text)


def test_a_cookie_of_one_client_does_not_reach_the_next(proxy: str, upstream: Upstream) -> None:
    for _ in range(2):
        answer = completion(proxy)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
    assert all("cookie" not in headers for headers in upstream.headers)


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"servers": {}, "adapters": 1}',
        '{"servers": {"s": {"url": 1, "base_model": "b"}}, "adapters": {}}',
        '{"servers": {"s": {"url": "http://[", "base_model": "b"}}, "adapters": {}}',
        '{"servers": {}, "adapters": {"m": {"s": NaN}}}',
        '{"servers": {}, "adapters": {"m": {"s": 1e400}}}',
        '{"servers": {}, "adapters": {"m": {"s": -1}}}',
    ],
)
def test_a_damaged_route_file_leaves_the_last_good_routes(
    proxy: str, tmp_path: Path, damage: str
) -> None:
    assert completion(proxy).status_code == 200
    good = (tmp_path / "routes.json").read_text()
    write_text(tmp_path / "routes.json", damage)
    assert completion(proxy).status_code == 200
    assert httpx2.get(f"{proxy}/v1/models").status_code == 200
    health = httpx2.get(f"{proxy}/health").json()
    assert health["servers"] == 1
    assert "expected a route file" in health["problem"]
    write_text(tmp_path / "routes.json", good)
    assert "problem" not in httpx2.get(f"{proxy}/health").json()


def test_a_route_file_that_was_never_good_is_named(proxy: str, tmp_path: Path) -> None:
    write_text(tmp_path / "other" / "routes.json", "{")
    with serving(proxy_app(tmp_path / "other" / "routes.json", no_embedder)) as url:
        answer = completion(url)
    assert answer.status_code == 503
    assert "expected a route file" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "m", "prompt": "\\ud800"}',
        b'{"model": "\\udfff"}',
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": 1e400}',
        b'{"model": "m", "x": %s}' % (b"[" * 100_000),
        b'{"model": "m", "x": %s1%s}' % (b'{"a":' * 50_000, b"}" * 50_000),
        b'{"model": "m", "seed": %s}' % (b"9" * 5_000),
        b'{"model": "m", "prompt": "\xff"}',
        b'{"model": ["m"]}',
        b"null",
        b"",
    ],
)
def test_a_body_that_cannot_be_sent_on_is_refused(
    proxy: str, upstream: Upstream, content: bytes
) -> None:
    answer = send_raw(proxy, content)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("request body: expected")
    assert upstream.bodies == []


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]":,\\udE0.-NaI1 ').map(str.encode)))
def test_any_bytes_are_an_object_or_refused(content: bytes) -> None:
    with contextlib.suppress(RefusedRequestError):
        json.dumps(parse_object(content), allow_nan=False).encode()


def test_a_byte_order_mark_is_accepted(proxy: str, upstream: Upstream) -> None:
    assert send_raw(proxy, b'\xef\xbb\xbf{"model": "m"}').status_code == 200
    assert json.loads(upstream.bodies[0]) == {"model": "m"}


def test_a_body_above_the_limit_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    limits = BodyLimits(max_bytes=1_000, timeout_s=0.3)
    with serving(upstream) as server, proxied(tmp_path, {"s": server}, limits) as url:
        assert send_raw(url, b'{"model": "m"}' + b" " * 900).status_code == 200
        assert send_raw(url, b'{"model": "m"}' + b" " * 1_000).status_code == 413
        parts = iter([b'{"model": "m"}', b" " * 600, b" " * 600])
        assert httpx2.post(f"{url}/v1/completions", content=parts).status_code == 413
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: p\r\ncontent-length: 9\r\n\r\n{")
            assert b"408" in slow.recv(100)
    assert len(upstream.bodies) == 1


def test_an_answer_that_breaks_off_is_an_error_or_comes_from_another_server(
    tmp_path: Path, upstream: Upstream
) -> None:
    with ExitStack() as stack:
        broken = stack.enter_context(answering(JSON_LENGTH_TOO_LARGE))
        with proxied(tmp_path / "one", {"s": broken}) as url:
            answer = completion(url)
            assert answer.status_code == 502
            assert broken in answer.json()["error"]["message"]
        good = stack.enter_context(serving(upstream))
        with proxied(tmp_path / "two", {"s": broken, "t": good}) as url:
            assert [completion(url).status_code for _ in range(6)] == [200] * 6


def test_a_stream_that_breaks_off_ends_with_an_error_and_no_end_of_body(tmp_path: Path) -> None:
    with answering(STREAM_CUT) as broken, proxied(tmp_path, {"s": broken}) as url:
        parts: list[str] = []
        with (
            httpx2.stream("POST", f"{url}/v1/completions", json={"model": "m"}) as answer,
            pytest.raises(httpx2.RemoteProtocolError),
        ):
            parts.extend(answer.iter_text())
        text = "".join(parts)
        events = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]
        assert events[0] == {"text": 1}, "the event that was incomplete is dropped"
        assert broken in events[1]["error"]["message"]
        metrics = httpx2.get(f"{url}/metrics").text
        assert 'maitre_proxy_cut_streams_total{model="m"} 1.0' in metrics


def test_many_clients_at_once_get_their_own_answers(proxy: str) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(completion(proxy).status_code))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert codes == [200] * 20
