"""What the scheduler asks of whoever keeps the runs; Dagster stands behind it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from maitre.workers.pool.pool import PoolWorker, WarmPool


class Runs(Protocol):
    """The runs of requests."""

    def to_resume(self, pool: WarmPool, report: Callable[[str], None]) -> dict[str, int]:
        """Return the runs that need another worker, each with the iterations that it has done."""
        ...

    def resume(self, run_id: str, pool: WarmPool, workers: Sequence[PoolWorker]) -> bool:
        """Place a run that has lost its worker on all of `workers`; return whether they have it."""
        ...

    def cancel(self, run_id: str) -> None:
        """Cancel a run."""
        ...
