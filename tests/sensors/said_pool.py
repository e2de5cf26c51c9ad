"""A pool that only says what it is told, and requests to schedule on it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from maitre.requests.store import RequestStore
from maitre.workers.pool.client import WorkerClient
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.protocol import WorkerView

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class SaidPool:
    """Idle workers that were idle for a while; notes how it is scaled."""

    def __init__(self, idle: int, idle_s: float = 1.0) -> None:
        self.grown: list[tuple[str, int]] = []
        self.shrunk: list[str] = []
        self.shrinks = 0
        self.removed: list[str] = []
        since_s = NOW.timestamp() - idle_s
        self.said = [
            PoolWorker(name, "http://127.0.0.1:1", "tiny", since_s, view)
            for name in (f"w{i}" for i in range(idle))
            for view in [WorkerView(name, "tiny", "idle", since_s, since_s)]
        ]

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        return self.said

    def grow(self, base_model: str, count: int, beside: int) -> None:
        self.grown.append((base_model, count))

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        self.shrinks += 1
        self.shrunk += [worker.name for worker in workers]

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        self.removed += [worker.name for worker in workers]

    def client(self, url: str) -> WorkerClient:
        raise AssertionError("nobody is to be asked")


def submit(store: RequestStore, *names: str) -> None:
    for name in names:
        store.submit(
            name, deadline_at=NOW + timedelta(minutes=5), now=NOW, base_model="tiny", lookup=False
        )
