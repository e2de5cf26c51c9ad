"""Base models of whose workers none was idle for a run: its next try can wait until one is."""

from collections.abc import Callable

from maitre.workers.pool.pool import WarmPool
from maitre.workers.transient_errors import PASSING


class WaitedFor:
    """What this process has found; another one finds it by itself."""

    def __init__(self) -> None:
        self._models: set[str] = set()

    def note(self, base_model: str) -> None:
        """A run has found no idle worker."""
        self._models.add(base_model)

    def still(self, pool: Callable[[], WarmPool | None]) -> list[str]:
        """The models whose runs would find none now either; `pool` is asked if there may be some.

        A model that no worker is held of at all is none of these: its runs start cold.
        """
        # Another thread may note one meanwhile.
        self._models -= {model for model in tuple(self._models) if not _has_none(pool, model)}
        return sorted(self._models)


def _has_none(pool: Callable[[], WarmPool | None], base_model: str) -> bool:
    try:
        held = pool()
        workers = held.workers(base_model) if held else []
    except (*PASSING, ValueError):
        # A settings or cluster file that is being edited must not keep all runs in the queue.
        return True
    return bool(workers) and not any(worker.is_idle for worker in workers)
