"""An HTTP/1.1 protocol of uvicorn that closes connections which do not finish their headers."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 5.0
"""How long a client may take to send a request's headers."""


class HeaderTimeoutProtocol(H11Protocol):
    """uvicorn's protocol with a limit for the time until a request's headers are complete.

    uvicorn by itself limits only the time between two requests: a client that sends half of a
    request's headers would keep its connection for ever.
    """

    header_timeout_s = HEADER_TIMEOUT_S
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the limit for the first request."""
        super().connection_made(transport)
        self._start_or_stop_timer()

    def data_received(self, data: bytes) -> None:
        """Start the limit when a further request begins; stop it when its headers are there."""
        super().data_received(data)
        self._start_or_stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the limit."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_or_stop_timer(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.header_timeout_s, self._close_if_incomplete)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_incomplete(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()
