"""A worker without Dagster: its states, its HTTP interface, what it writes and what not."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.launch.dagster_internals import capture_interrupts, pop_captured_interrupt
from maitre.workers.leases import PREEMPTED, LeaseState, LeaseStore
from maitre.workers.pool.client import ClaimRefusedError, WorkerClient, WorkerUnreachableError
from maitre.workers.pool.protocol import Claim
from maitre.workers.process.run_context import current_run
from maitre.workers.process.worker import Worker
from tests.workers.live import until
from tests.workers.worker_thread import TOKEN, Held, Steps


@pytest.fixture
def execute() -> Steps:
    return Steps()


@pytest.fixture
def held(tmp_path: Path, execute: Steps) -> Iterator[Held]:
    made = Held(tmp_path, execute)
    try:
        yield made
    finally:
        made.worker.drain()
        made.server.should_exit = True


def status_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClaimRefusedError) as refused:
        call()
    return str(refused.value)


def test_it_takes_claims_only_when_loaded_and_one_at_a_time(held: Held, execute: Steps) -> None:
    first, second = held.place("r1"), held.place("r2")
    assert "409" in status_of(lambda: held.claim(first))
    assert "loading" in status_of(lambda: held.claim(first))
    held.worker.ready({"model": 1.0})
    held.claim(first)
    held.claim(first)  # the same attempt once more is no second claim
    assert "w is busy" in status_of(lambda: held.claim(second))
    until(lambda: (c := held.client.status().claim) and c.iteration > 3)
    held.client.preempt(first.attempt)
    held.free()
    assert execute.committed == []
    execute.steps = 3
    held.claim(second)
    until(lambda: execute.committed == ["r2"])
    held.free()
    ended = held.leases.current("r2")
    assert ended is not None
    assert ended.state is LeaseState.ENDED


def test_a_preempted_run_goes_on_from_its_last_step(held: Held, execute: Steps) -> None:
    held.worker.ready({})
    placed = held.place("r")
    held.claim(placed)
    until(lambda: (c := held.client.status().claim) and c.iteration > 3)
    held.client.preempt(placed.attempt)
    held.free()
    before = held.leases.current("r")
    assert before is not None
    assert (before.state, before.message) == (LeaseState.RELEASED, PREEMPTED)
    last = held.client.status().last
    assert last is not None
    assert before.iterations == last.iteration
    assert held.released == ["r"]
    execute.steps = 2
    held.claim(held.place("r", after=before))
    until(lambda: execute.committed == ["r"])
    assert execute.began_at[1] == f"step {last.iteration} of lease 1"
    held.free()
    # What is over needs no checkpoint.
    assert not list((held.worker._checkpoints.folder).glob("*.safetensors"))


def test_a_worker_whose_run_was_placed_elsewhere_commits_nothing(
    held: Held, execute: Steps
) -> None:
    held.worker.ready({})
    placed = held.place("r")
    held.claim(placed)
    until(lambda: (c := held.client.status().claim) and c.iteration > 3)
    successor = held.place("r", after=placed)
    held.free()
    assert execute.committed == []
    now = held.leases.current("r")
    assert now is not None
    assert (now.attempt, now.state) == (successor.attempt, LeaseState.HELD)


def test_a_drained_worker_gives_its_run_up_and_ends(held: Held, execute: Steps) -> None:
    held.worker.ready({})
    placed = held.place("r")
    held.claim(placed)
    until(lambda: (c := held.client.status().claim) and c.iteration > 3)
    held.client.drain()
    held.thread.join(timeout=10)
    assert not held.thread.is_alive()
    assert "draining" in status_of(lambda: held.claim(held.place("other")))
    now = held.leases.current("r")
    assert now is not None
    assert now.state is LeaseState.RELEASED


def test_one_that_may_finish_its_run_gives_it_up_when_it_is_to_end_at_once(
    held: Held, execute: Steps
) -> None:
    held.worker.ready({})
    placed = held.place("r")
    held.claim(placed)
    until(lambda: (c := held.client.status().claim) and c.iteration > 3)
    held.client.drain(preempt=False)
    # SIGTERM, as its pod is deleted.
    held.worker.drain()
    held.thread.join(timeout=10)
    assert not held.thread.is_alive()
    now = held.leases.current("r")
    assert now is not None
    assert now.state is LeaseState.RELEASED


def test_a_result_that_is_being_stored_is_finished_first(tmp_path: Path) -> None:
    stored: list[str] = []

    def store(run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        run = current_run()
        run.enter("registering")
        until(run.should_stop)
        run.check_lease()
        before_write()
        stored.append(run_id)

    held = Held(tmp_path, store)
    held.worker.ready({})
    held.claim(held.place("r"))
    until(lambda: (c := held.client.status().claim) and c.phase == "registering")
    held.worker.drain()
    held.thread.join(timeout=10)
    held.server.should_exit = True
    assert stored == ["r"]
    ended = held.leases.current("r")
    assert ended is not None
    assert ended.state is LeaseState.ENDED


def test_an_answer_that_breaks_off_is_none() -> None:
    """As that of a worker which is killed while it answers."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    client = WorkerClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "secret")
    with listener, pytest.raises(WorkerUnreachableError) as broken:
        client.status()
    assert not broken.value.is_gone


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b'"x"', b"{}", b'{"worker": "w", "more": 1}', b"[" * 50_000, b"x" * 2**21],
)
def test_an_answer_that_is_not_a_workers_counts_as_none(body: bytes) -> None:
    """Another server may have got the address of a worker that has ended."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    client = WorkerClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "secret")
    with listener, pytest.raises(WorkerUnreachableError, match="not a worker's answer"):
        client.status()


def test_everything_but_the_probes_needs_the_token(held: Held) -> None:
    import urllib.error
    import urllib.request

    def answers(path: str) -> int:
        try:
            with urllib.request.urlopen(held.client.url + path) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert answers("/healthz") == 200
    assert answers("/readyz") == 503
    held.worker.ready({})
    assert answers("/readyz") == 200
    assert {answers(path) for path in ("/status", "/metrics", "/claims/x/progress")} == {401}
    stranger = WorkerClient(held.client.url, "guessed")
    assert "401" in status_of(stranger.status)
    assert "404" in status_of(lambda: held.client.cancel("unknown"))


def test_metrics_and_progress_tell_what_it_does(held: Held, execute: Steps) -> None:
    import urllib.request

    held.worker.ready({"model": 1.5})
    execute.steps = 200
    placed = held.place("r")
    held.claim(placed)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    path = f"{held.client.url}/claims/{placed.attempt}/progress"
    with urllib.request.urlopen(urllib.request.Request(path, headers=headers)) as stream:
        told = [json.loads(line) for line in stream]
    iterations = [line["iteration"] for line in told]
    assert iterations == sorted(iterations)
    assert told[-1]["run_id"] == "r"
    held.free()
    request = urllib.request.Request(f"{held.client.url}/metrics", headers=headers)
    text = urllib.request.urlopen(request).read().decode()
    assert 'maitre_worker_claims_total{base_model="tiny",end="finished"} 1.0' in text
    assert 'maitre_worker_load_seconds{base_model="tiny",stage="model"} 1.5' in text
    assert "maitre_worker_busy_seconds_total" in text


def test_a_cancel_that_comes_when_a_run_is_over_does_not_hit_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real signals: on the main thread, as the worker's process does it."""
    leases = LeaseStore(f"sqlite:///{tmp_path}/queue.db")
    checkpoints = CheckpointStore(str(tmp_path / "shared"), tmp_path / "own")
    interrupted: list[bool] = []

    def execute(run_id: str, **_: object) -> None:
        interrupted.append(pop_captured_interrupt())

    worker = Worker("w", "tiny", execute, leases, checkpoints, logging.getLogger("worker"))
    worker.ready({})

    def place(run_id: str) -> str:
        now = datetime.now(UTC)
        placed = leases.grant(run_id, worker="w", url="", after=None, now=now)
        assert placed is not None
        worker.claim(Claim(placed.attempt, run_id, 1, False))
        return placed.attempt

    first = place("r1")
    late: list[str] = []

    def end(_: LeaseStore, run_id: str, attempt: str) -> bool:
        if attempt == first:
            worker.cancel(attempt)
            late.append(attempt)
        return True

    def go_on() -> None:
        until(lambda: late and worker.view().claim is None)
        place("r2")
        until(lambda: worker.view().claim is None)
        worker.drain()

    monkeypatch.setattr(LeaseStore, "end", end)
    threading.Thread(target=go_on, daemon=True).start()
    with capture_interrupts():
        worker.serve(drop_interrupt=pop_captured_interrupt)
    assert late == [first]
    assert interrupted == [False, False]


def test_nobody_there_is_told_from_somebody_slow(held: Held) -> None:
    held.server.should_exit = True
    until(lambda: not held.server.servers[0].is_serving())
    with pytest.raises(WorkerUnreachableError) as gone:
        until(lambda: held.client.status() and None)
    assert gone.value.is_gone
