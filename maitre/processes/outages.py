"""Errors that mean: a service or an object store did not answer, and a later try may succeed."""

from collections.abc import Iterator

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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
