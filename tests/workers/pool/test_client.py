"""How long one worker that does not answer keeps the others waiting."""

import socket
import time
from collections.abc import Iterator

import pytest

from maitre.workers.pool import client as module
from maitre.workers.pool.client import Silence, WorkerClient, WorkerUnreachableError
from maitre.workers.pool.pool import PoolWorker, with_views


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The address of a process that accepts connections and stands still."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> Silence:
    made = Silence(short_s=0.1, full_every_s=1.5)
    monkeypatch.setattr(module, "_silence_of_process", lambda: made)
    return made


def seconds_of(client: WorkerClient) -> float:
    began_s = time.monotonic()
    with pytest.raises(WorkerUnreachableError) as refused:
        client.status()
    assert not refused.value.is_gone
    return time.monotonic() - began_s


def test_a_silent_worker_costs_its_full_time_only_now_and_then(silent_url: str) -> None:
    client = WorkerClient(silent_url, "token", timeout_s=1.0)
    assert seconds_of(client) >= 1.0
    # Another client, as each round makes one.
    assert seconds_of(WorkerClient(silent_url, "token", timeout_s=1.0)) < 0.9
    time.sleep(1.5)
    assert seconds_of(client) >= 1.0


def test_a_worker_that_answers_again_gets_its_full_time_again(silence: Silence) -> None:
    client = WorkerClient("http://127.0.0.1:1", "token", timeout_s=1.0)
    silence.note(client, is_silent=True)
    assert silence.patience_s(client) == 0.1
    silence.note(client, is_silent=False)
    assert silence.patience_s(client) == 1.0


def test_many_silent_workers_cost_the_time_of_one(silent_url: str) -> None:
    workers = [PoolWorker(f"w{i}", silent_url, "tiny", 0.0) for i in range(40)]
    began_s = time.monotonic()
    assert [worker.view for worker in with_views(workers, "token", 1.0)] == [None] * 40
    assert time.monotonic() - began_s < 10.0
