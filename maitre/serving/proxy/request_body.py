"""Read the JSON body of a request within limits of size and time, strictly as RFC 8259 has it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from starlette.types import Message, Receive

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Parsing a body of this size takes about a millisecond; larger ones are parsed in a thread.
_PARSED_IN_LOOP_BYTES = 256 * 1024


@dataclass(frozen=True)
class BodyLimits:
    """How large a request body may be, and how long the client may take to send it."""

    max_bytes: int = 64 * 1024 * 1024
    timeout_s: float = 60.0


class RefusedRequestError(Exception):
    """A request that the proxy refuses with `status`; it never reaches a server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClientGoneError(Exception):
    """The client closed its connection before the response was complete."""


async def read_json(receive: Receive, limits: BodyLimits) -> dict[str, Any]:
    """Read a request's body and return its JSON object.

    Every number of the object is finite and every text is valid Unicode, so that it can be sent on.

    Raises:
        RefusedRequestError: the body is too large, too slow, or no such JSON object.
        ClientGoneError: the client left before the body was complete.
    """
    try:
        async with asyncio.timeout(limits.timeout_s):
            content = await _read_bytes(receive, limits.max_bytes)
    except TimeoutError:
        raise RefusedRequestError(
            408, f"request body: expected it within {limits.timeout_s:g} s"
        ) from None
    if len(content) <= _PARSED_IN_LOOP_BYTES:
        return parse_object(content)
    return await asyncio.to_thread(parse_object, content)


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Raises:
        RefusedRequestError: the text is not UTF-8, not JSON, nested too deeply, holds a number that
            is not finite, or is not an object.
    """
    try:
        document = from_json(content.removeprefix(BYTE_ORDER_MARK), allow_inf_nan=False)
        # `from_json` reads 1e400 as infinity in spite of the option.
        json.dumps(document, allow_nan=False)
    except ValueError as error:
        raise RefusedRequestError(400, f"request body: expected a JSON object; {error}") from None
    if not isinstance(document, dict):
        raise RefusedRequestError(
            400, f"request body: expected a JSON object; got {type(document).__name__}"
        )
    return document


async def _read_bytes(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise RefusedRequestError(
                413, f"request body: expected at most {max_bytes} bytes; got more"
            )
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
