"""ASGI middleware of a worker: it checks the token before it reads anything of a request's body."""

import asyncio
import hmac
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maitre.workers.pool.token import check_token

MAX_BODY_BYTES = 64 * 1024
"""The largest body of a request; a claim has less than 1 KiB."""
BODY_TIMEOUT_S = 5.0
"""How long a client may take to send the body."""


class RequestGuard:
    """Answers 401 without the token, 413 to a large body, and 408 to a slow one; else calls `app`.

    Only the paths in `open_paths` need no token. A refused request's connection is closed, so that
    the rest of its body is never read.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        open_paths: Collection[str] = (),
        max_body_bytes: int = MAX_BODY_BYTES,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._expected = f"Bearer {check_token(token, 'token')}".encode("ascii")
        self._open_paths = frozenset(open_paths)
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # The worker has no WebSocket: an unknown kind of connection is not let in.
            return
        headers = dict(scope["headers"])
        if scope["path"] not in self._open_paths:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                await _refuse(send, 401, "expected a bearer token")
                return
        if _length(headers) > self._max_body_bytes:
            await _refuse(send, 413, f"expected a body of at most {self._max_body_bytes} bytes")
            return
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            await _refuse(send, 408, f"expected the body within {self._body_timeout_s:g} s")
            return
        if body is None:
            await _refuse(send, 413, f"expected a body of at most {self._max_body_bytes} bytes")
            return
        await self._app(scope, _receive_again(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the whole body; `None` when it is too large."""
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return body
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return None
            if not message.get("more_body", False):
                return body


def _receive_again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, then the events of the connection."""
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _length(headers: dict[bytes, bytes]) -> int:
    """Return the announced length of the body; 0 where none is announced."""
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
