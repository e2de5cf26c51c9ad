"""A worker whose database is away: for a moment, and for longer than a lease."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from maitre.workers.leases import LeaseState, LeaseStore
from maitre.workers.process import worker as worker_module
from maitre.workers.process.claimed_run import LeaseGuard
from tests.workers.live import until
from tests.workers.worker_thread import Held, Steps


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path, Steps(3))
    made.worker.ready({})
    try:
        yield made
    finally:
        made.worker.drain()
        made.server.should_exit = True


def refuse(patch: pytest.MonkeyPatch, method: str, times: int) -> list[str]:
    """Let the leases' database refuse a method so many times; the calls it has refused."""
    refused: list[str] = []
    call = getattr(LeaseStore, method)

    def refusing(*arguments: Any, **named: Any) -> Any:
        if len(refused) < times:
            refused.append(method)
            raise sa.exc.OperationalError("SELECT", {}, Exception("connection refused"))
        return call(*arguments, **named)

    patch.setattr(LeaseStore, method, refusing)
    return refused


@pytest.mark.parametrize("method", ["is_current", "end"])
def test_a_database_that_is_away_for_a_moment_costs_nothing(
    held: Held, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    refused = refuse(monkeypatch, method, 2)
    held.claim(held.place("r"))
    held.free()
    assert len(refused) == 2
    ended = held.leases.current("r")
    assert ended is not None
    assert ended.state is LeaseState.ENDED


def test_one_that_is_away_for_longer_ends_neither_run_nor_worker(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker_module, "LeaseGuard", lambda *arguments: LeaseGuard(*arguments, patience_s=0.3)
    )
    placed = held.place("r")
    with monkeypatch.context() as patch:
        refuse(patch, "is_current", 1_000)
        refuse(patch, "release", 1_000)
        held.claim(placed)
        until(lambda: held.client.status().last)
        held.free()
    execute = held.worker._execute
    assert isinstance(execute, Steps)
    assert execute.committed == []
    # The row still names the worker, which says that it does not have the run: it is resumed.
    now = held.leases.current("r")
    assert now is not None
    assert (now.attempt, now.state) == (placed.attempt, LeaseState.HELD)
    held.claim(held.place("r", after=now))
    until(lambda: execute.committed == ["r"])
    held.free()


def test_an_end_that_cannot_be_told_ends_no_worker(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker_module, "LeaseGuard", lambda *arguments: LeaseGuard(*arguments, patience_s=0.3)
    )
    with monkeypatch.context() as patch:
        refuse(patch, "end", 1_000)
        held.claim(held.place("r"))
        until(lambda: held.client.status().last)
        held.free()
    assert held.client.status().state == "idle"
