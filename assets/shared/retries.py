"""Try a step again when a service that it needs did not answer."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import dagster as dg

from maitre.processes.outages import is_outage

OUTAGE_RETRIES = dg.RetryPolicy(max_retries=3, delay=10.0, backoff=dg.Backoff.EXPONENTIAL)
"""After 10, 30 and 70 s."""

P = ParamSpec("P")
R = TypeVar("R")


def retry_outages(compute: Callable[P, R]) -> Callable[P, R]:
    """Retry the step by `OUTAGE_RETRIES` when MLflow, a server or an object store is unreachable.

    The asset's own `retry_policy` would retry every error: a wrong input, too, would be reported
    only after a minute. The first parameter of `compute` must be the asset's context.
    """

    @wraps(compute)
    def with_retries(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except Exception as error:
            if not is_outage(error):
                raise
            context = args[0] if args else kwargs["context"]
            assert isinstance(context, dg.AssetExecutionContext)
            attempt = context.op_execution_context.retry_number + 1
            raise dg.RetryRequested(
                max_retries=OUTAGE_RETRIES.max_retries,
                seconds_to_wait=OUTAGE_RETRIES.calculate_delay(attempt),
            ) from error

    return with_retries
