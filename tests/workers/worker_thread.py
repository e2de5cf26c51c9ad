"""A worker of steps that are none: it serves in a thread of this process, without Dagster."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.leases import LeaseStore, RunLease
from maitre.workers.pool.client import WorkerClient
from maitre.workers.pool.protocol import Claim
from maitre.workers.process.claimed_run import Execute
from maitre.workers.process.header_timeout import HeaderTimeoutProtocol
from maitre.workers.process.run_context import current_run
from maitre.workers.process.server import app_for
from maitre.workers.process.worker import Worker
from tests.workers.live import until

TOKEN = "secret-of-the-tests"


class Steps:
    """An op of so many steps, with a checkpoint at each, that commits at the end."""

    def __init__(self, steps: int = 10_000) -> None:
        self.steps = steps
        self.committed: list[str] = []
        self.began_at: list[str] = []

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        held = current_run()
        assert held.checkpoint is not None
        before = held.checkpoint.read_text() if held.checkpoint.exists() else "nothing"
        self.began_at.append(before)
        held.enter("tuning", self.steps)
        for step in range(1, self.steps + 1):
            if held.should_stop():
                break
            held.checkpoint.write_text(f"step {step} of lease {held.checkpoint.stem[-1]}")
            held.step(step)
            time.sleep(0.002)
        held.check_lease()
        before_write()
        self.committed.append(run_id)


class Held:
    """A worker that serves in a thread, and its client."""

    def __init__(self, folder: Path, execute: Execute) -> None:
        self.leases = LeaseStore(f"sqlite:///{folder}/queue.db")
        checkpoints = CheckpointStore(str(folder / "shared"), folder / "own")
        log = logging.getLogger("worker")
        self.released: list[str] = []
        self.worker = Worker(
            "w", "tiny", execute, self.leases, checkpoints, log, release_slots=self.released.append
        )
        # Dagster's interrupts are not at hand here; the steps ask by themselves.
        self.worker._interrupt = lambda: None
        app = app_for(self.worker, TOKEN)
        config = uvicorn.Config(app, port=0, http=HeaderTimeoutProtocol, log_config=None)
        self.server = uvicorn.Server(config)
        threading.Thread(target=self.server.run, daemon=True).start()
        until(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = WorkerClient(f"http://127.0.0.1:{port}", TOKEN)
        self.thread = threading.Thread(target=self.worker.serve, daemon=True)
        self.thread.start()

    def place(self, run_id: str, after: RunLease | None = None) -> RunLease:
        placed = self.leases.grant(
            run_id, worker="w", url=self.client.url, after=after, now=datetime.now(UTC)
        )
        assert placed is not None
        return placed

    def claim(self, placed: RunLease) -> None:
        claim = Claim(placed.attempt, placed.run_id, placed.number, placed.number > 1)
        self.client.claim(claim)

    def free(self) -> None:
        until(lambda: self.client.status().claim is None)
