"""The warm pool: the workers of each base model, on this machine or on Kubernetes."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from maitre.errors import UserError
from maitre.workers.pool.client import ClaimRefusedError, WorkerClient, WorkerUnreachableError
from maitre.workers.pool.protocol import WorkerView

_ASKED_TOGETHER = 128


@dataclass(frozen=True)
class PoolWorker:
    """A worker of a pool. `view` is its own state, `None` while it does not answer.

    `started_s` is when it was started (wall clock, s). `has_answered` says whether it has ever
    answered, `None` where that is not known. `failing` is why it does not start, if that is known.
    """

    name: str
    url: str
    base_model: str
    started_s: float
    view: WorkerView | None = None
    has_answered: bool | None = None
    failing: str = ""

    @property
    def is_idle(self) -> bool:
        """Return whether it would take a claim."""
        return self.view is not None and self.view.state == "idle"

    @property
    def is_ready(self) -> bool:
        """Return whether its model is loaded and it takes claims, now or after its run."""
        return self.view is not None and self.view.state in ("idle", "busy")

    @property
    def is_coming(self) -> bool:
        """Return whether it still loads its model, or waits for a node; it has no run to lose."""
        if self.view is None:
            return self.has_answered is False
        return self.view.state == "loading"

    @property
    def is_draining(self) -> bool:
        """Return whether it takes no more claims."""
        return self.view is not None and self.view.state == "draining"


class PoolError(UserError):
    """A pool has refused a call; the message says which and why."""


class WarmPool(Protocol):
    """A pool of warm workers."""

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        """Return the workers of one base model, or of all, each with its view."""
        ...

    def grow(self, base_model: str, count: int, beside: int) -> None:
        """Start `count` more workers of a base model; return before they are ready.

        `beside` is the number of its workers when the caller looked. Workers that another process
        has started since then count as part of `count`.
        """
        ...

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        """Drain these workers and give back their GPUs."""
        ...

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        """End drained workers that are still there; raise `PoolError` when that is refused."""
        ...

    def client(self, url: str) -> WorkerClient:
        """Return a client of the worker at `url`."""
        ...


def with_views(workers: Iterable[PoolWorker], token: str, timeout_s: float) -> list[PoolWorker]:
    """Return the workers with their views; call all workers at the same time."""

    def ask(worker: PoolWorker) -> PoolWorker:
        if not worker.url:
            return worker
        try:
            view = WorkerClient(worker.url, token, timeout_s).status()
        except (WorkerUnreachableError, ClaimRefusedError):
            return worker
        # A worker of another name may have the address by now.
        return PoolWorker(**{**vars(worker), "view": view if view.worker == worker.name else None})

    listed = list(workers)
    if len(listed) < 2:
        return [ask(worker) for worker in listed]
    with ThreadPoolExecutor(min(len(listed), _ASKED_TOGETHER)) as threads:
        return list(threads.map(ask, listed))
