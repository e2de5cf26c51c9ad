"""The queue of tuning requests: tables in SQLite or PostgreSQL.

`store` is the queue in plain SQLAlchemy, for the command line and the workers, which must start
quickly; `resource` is the same for Dagster. `RequestQueue` is loaded when it is asked for, as
Dagster takes a second to import.
"""

from typing import TYPE_CHECKING, Any

from resources.request_queue.request import RequestError, RequestState, TuningRequest

if TYPE_CHECKING:
    from resources.request_queue.resource import RequestQueue

__all__ = ["RequestError", "RequestQueue", "RequestState", "TuningRequest"]


def __getattr__(name: str) -> Any:
    if name == "RequestQueue":
        from resources.request_queue.resource import RequestQueue

        return RequestQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
