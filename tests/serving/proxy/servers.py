"""Real servers on both sides of the proxy: uvicorn in a thread, and a server of raw bytes."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an ASGI application; yield its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """Answer each connection with these bytes and close it; yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(65536)
            connection.sendall(content)
            connection.close()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not hold in time"
        time.sleep(0.01)


class Upstream:
    """A server that answers with a cookie, or waits until its client leaves."""

    def __init__(self) -> None:
        self.open = 0
        self.left = 0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        waits, streams = b'"wait"' in body, b'"stream": true' in body
        self.open += 1
        try:
            if waits and not streams:
                await self._until_left(receive)
            kind = b"text/event-stream" if streams else b"application/json"
            headers = [(b"content-type", kind), (b"set-cookie", b"session=secret; Path=/")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if streams:
                event = {"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}
                await send(event)
                if waits:
                    await self._until_left(receive)
            await send({"type": "http.response.body", "body": b"" if streams else b"{}"})
        finally:
            self.open -= 1

    async def _until_left(self, receive) -> None:
        async with asyncio.timeout(20):
            while (await receive())["type"] != "http.disconnect":
                pass
        self.left += 1
