"""Work for a client for as long as its connection is open."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from maitre.serving.proxy.request_body import ClientGoneError

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Return the result of `work`; cancel it when the client closes its connection.

    The request's body must have been read: what `receive` returns after it is only waited for.

    Raises:
        ClientGoneError: the client closed its connection first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
