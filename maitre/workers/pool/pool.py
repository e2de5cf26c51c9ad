"""A warm pool: lists, grows and shrinks the workers of each base model, here or on Kubernetes."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from maitre.errors import UserError
from maitre.workers.pool.client import ClaimRefusedError, WorkerClient, WorkerUnreachableError
from maitre.workers.pool.protocol import WorkerView

_ASKED_TOGETHER = 32


@dataclass(frozen=True)
class PoolWorker:
    """A worker of a pool. `view`: what it says of itself, `None` when it does not answer (yet).

    `started_s`: when it was started, wall-clock s. `has_answered`: whether it listens since its
    process began, `None` where nobody knows. `failing`: why it does not come up, where that is
    known.
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
        """Whether it would take a claim."""
        return self.view is not None and self.view.state == "idle"

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing more."""
        return self.view is not None and self.view.state == "draining"


class PoolError(UserError):
    """A pool could not do what it was asked; the message says what and why."""


class WarmPool(Protocol):
    """Where warm workers live."""

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        """The workers that are held, of one base model or of all, each asked for its view."""
        ...

    def grow(self, base_model: str, count: int, beside: int) -> None:
        """Start `count` more workers of a base model; returns before they are ready.

        `beside` is how many of them `workers` gave when the need was seen: what somebody else has
        started since is not started again.
        """
        ...

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        """Drain these workers and give back what they held."""
        ...

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        """End drained workers that nothing else has ended; `PoolError` when that is refused."""
        ...

    def client(self, url: str) -> WorkerClient:
        """Talks to the worker at `url`."""
        ...


def with_views(workers: Iterable[PoolWorker], token: str, timeout_s: float) -> list[PoolWorker]:
    """The workers with what they say of themselves, all asked at once."""

    def ask(worker: PoolWorker) -> PoolWorker:
        if not worker.url:
            return worker
        try:
            view = WorkerClient(worker.url, token, timeout_s).status()
        except (WorkerUnreachableError, ClaimRefusedError):
            return worker
        # A worker of another name has taken over the address.
        return PoolWorker(**{**vars(worker), "view": view if view.worker == worker.name else None})

    listed = list(workers)
    if len(listed) < 2:
        return [ask(worker) for worker in listed]
    with ThreadPoolExecutor(min(len(listed), _ASKED_TOGETHER)) as threads:
        return list(threads.map(ask, listed))
