"""Errors that mean: a service or an object store did not answer, and a later try may succeed."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

T = TypeVar("T")
LONGEST_PAUSE_S = 15.0

OUTAGES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "builtins.ConnectionError",
        "builtins.TimeoutError",
        "httpx.TransportError",
        "httpx2.TransportError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.RetryError",
        "requests.exceptions.Timeout",
        "sqlalchemy.exc.InterfaceError",
        "sqlalchemy.exc.OperationalError",
        "urllib3.exceptions.HTTPError",
    }
)
"""By name, so that asking imports none of the client libraries. Subclasses count as well."""


def is_outage(error: BaseException) -> bool:
    """Return whether the error, or one that led to it, is an outage."""
    return any(
        f"{kind.__module__}.{kind.__qualname__}" in OUTAGES
        for link in _chain(error)
        for kind in type(link).__mro__
    )


def wait_out_outages(
    action: Callable[[], T],
    *,
    limit_s: float,
    report: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `action` returns; call it again, after a pause, while it ends in an outage.

    Pauses grow from 1 s to `LONGEST_PAUSE_S`; each is reported. `check` is called before each call,
    and ends the waiting by what it raises. After `limit_s` seconds the last outage is raised.
    """

    def report_pause(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        pause_s = state.next_action.sleep if state.next_action else 0.0
        waited_s = state.seconds_since_start or 0.0
        report(f"{reason[:200]}: next try in {pause_s:.0f} s, after {waited_s:.0f} s")

    retrying = Retrying(
        retry=retry_if_exception(is_outage),
        wait=wait_exponential_jitter(initial=1.0, max=LONGEST_PAUSE_S),
        stop=stop_after_delay(limit_s),
        before=lambda _: check(),
        before_sleep=report_pause,
        sleep=sleep,
        reraise=True,
    )
    return retrying(action)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
