"""What a tick of the scheduler starts by itself, and what it leaves to Dagster."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.graphql import DagsterClient, GraphqlError
from maitre.workers.scheduling import tick as module
from maitre.workers.scheduling.round import Round, StartRun
from maitre.workers.scheduling.tick import Tick

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> RequestStore:
    return RequestStore(f"sqlite:///{tmp_path}/requests.db")


def tick(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch, url: str, for_s: float = 1.0
) -> list[StartRun]:
    """A tick whose policy starts everything that waits on the worker `w`."""

    def schedule(_: object, __: object, ___: object, waiting: Sequence[TuningRequest], now: object):
        held = [r for r in waiting if store.take(r.request_id, owner="worker w", now=now, hold_s=9)]
        return Round(starts=[StartRun(request, ("w",)) for request in held])

    monkeypatch.setattr(module, "schedule", schedule)
    settings = Settings(request_queue_url=store.url, dagster_url=url)
    with dg.DagsterInstance.ephemeral() as instance:
        pool: object = None
        return Tick(
            settings,
            instance,
            pool,
            lambda: store.find([RequestState.QUEUED]),
            lambda _: None,
            for_s,
        ).starts()


def submit(store: RequestStore, task: str) -> str:
    return store.submit(task, deadline_at=FAR, now=datetime.now(UTC)).request_id


def test_a_request_that_comes_during_a_tick_is_launched_in_it(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: dict[str, float] = {}
    monkeypatch.setattr(
        DagsterClient,
        "launch",
        lambda _, request, workers, lookup: (
            launched.setdefault(request.task, time.monotonic()) and "run"
        ),
    )
    first = submit(store, "before")
    threading.Timer(0.3, submit, (store, "during")).start()
    assert tick(store, monkeypatch, "http://dagster") == []
    assert list(launched) == ["before", "during"]
    assert store.get(first).state is RequestState.LAUNCHED


def test_what_the_webserver_does_not_take_is_left_to_dagster(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise GraphqlError("no")

    monkeypatch.setattr(DagsterClient, "launch", refuse)
    request_id = submit(store, "a")
    [start] = tick(store, monkeypatch, "http://dagster")
    assert (start.request.task, start.workers) == ("a", ("w",))
    # Held for the run that Dagster makes of it.
    assert store.get(request_id).state is RequestState.STARTING


def test_a_launch_that_cannot_be_noted_keeps_none_of_the_others(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []
    monkeypatch.setattr(
        DagsterClient, "launch", lambda _, request, *__: launched.append(request.task) or "run"
    )

    def locked(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))

    monkeypatch.setattr(RequestStore, "move", locked)
    for name in ("a", "b"):
        submit(store, name)
    assert tick(store, monkeypatch, "http://dagster") == []
    assert sorted(launched) == ["a", "b"]


def test_without_a_webserver_a_tick_is_one_round(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store, "a")
    began_s = time.monotonic()
    assert len(tick(store, monkeypatch, "", for_s=60.0)) == 1
    assert time.monotonic() - began_s < 30.0


def test_a_run_that_comes_after_another_for_its_request_is_not_noted(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webserver stood still for longer than the request was held."""
    request_id = submit(store, "a")

    def launch(*_: object) -> str:
        assert store.bind_run(request_id, attempt=1, run_id="other")
        return "run"

    monkeypatch.setattr(DagsterClient, "launch", launch)
    assert tick(store, monkeypatch, "http://dagster", for_s=0.0) == []
    assert store.get(request_id).run_id == "other"
