"""Base models without an idle worker: Dagster's queue keeps their runs until a worker is idle."""

from collections.abc import Callable

from maitre.errors import UserError
from maitre.workers.pool.pool import WarmPool
from maitre.workers.transient_errors import TRANSIENT_ERRORS


class BusyModels:
    """The busy models that this process knows; every process finds them by itself."""

    def __init__(self) -> None:
        self._models: set[str] = set()

    def add(self, base_model: str) -> None:
        """Add a model when one of its runs has found no idle worker."""
        self._models.add(base_model)

    def still_busy(self, pool: Callable[[], WarmPool | None]) -> list[str]:
        """Return the models that still have no idle worker; forget the others.

        `pool` is called only if a model was busy before. A model of which the pool holds no worker
        is not busy: its runs start cold.
        """
        # Another thread may add a model at the same time.
        self._models -= {model for model in tuple(self._models) if not _is_busy(pool, model)}
        return sorted(self._models)


def _is_busy(pool: Callable[[], WarmPool | None], base_model: str) -> bool:
    try:
        held = pool()
        workers = held.workers(base_model) if held else []
    except (*TRANSIENT_ERRORS, UserError, ValueError):
        # While a settings or cluster file is being edited, runs of other models leave the queue.
        return True
    return bool(workers) and not any(worker.is_idle for worker in workers)
