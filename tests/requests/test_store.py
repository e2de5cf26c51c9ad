import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier, Timer
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from maitre.requests import RequestError, RequestState
from maitre.requests.request import OPEN_STATES
from maitre.requests.store import RequestStore
from maitre.requests.tables import engine, requests, transaction
from tests.postgres import postgres_server

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> RequestStore:
    if request.param == "sqlite":
        return RequestStore(f"sqlite:///{tmp_path}/deep/requests.db")
    store = RequestStore(request.getfixturevalue("postgres_url"))
    with engine(store.url).begin() as connection:
        connection.execute(requests.delete())
    return store


def test_the_earliest_deadline_comes_first_and_keeps_its_zone(queue: RequestStore) -> None:
    late = queue.submit("late", deadline_at=NOW + timedelta(hours=2), now=NOW)
    soon = queue.submit("soon", deadline_at=LATER, now=NOW)
    assert [r.request_id for r in queue.find()] == [soon.request_id, late.request_id]
    assert queue.get(soon.request_id) == soon


def test_a_time_of_any_zone_is_the_same_moment_in_every_database(queue: RequestStore) -> None:
    east = timezone(timedelta(hours=2))
    made = queue.submit("task", deadline_at=LATER.astimezone(east), now=NOW.astimezone(east))
    there = queue.get(made.request_id)
    assert (there.deadline_at, there.submitted_at) == (LATER, NOW)
    assert queue.take(made.request_id, owner="o", now=NOW.astimezone(east), hold_s=60.0)
    late = (NOW + timedelta(seconds=61)).astimezone(east)
    assert queue.take(made.request_id, owner="next", now=late, hold_s=60.0)
    queue.cancel(made.request_id, now=NOW)
    queue.give_back(made.request_id, owner="next", now=NOW)
    again = queue.retry(made.request_id, now=NOW, deadline_at=LATER.astimezone(east))
    assert again.deadline_at == LATER


def test_a_time_without_a_zone_is_refused(queue: RequestStore) -> None:
    naive = LATER.replace(tzinfo=None)
    with pytest.raises(RequestError, match="deadline 2030-01-01T01:00:00 has no time zone"):
        queue.submit("task", deadline_at=naive, now=NOW)
    made = queue.submit("task", deadline_at=LATER, now=NOW)
    queue.cancel(made.request_id, now=NOW)
    with pytest.raises(RequestError, match="has no time zone"):
        queue.retry(made.request_id, now=NOW, deadline_at=naive)
    with pytest.raises(RequestError, match="has no time zone"):
        queue.retry(made.request_id, now=NOW.replace(tzinfo=None))


def test_of_what_has_ended_the_last_ones_are_remembered(queue: RequestStore) -> None:
    ids = [
        queue.submit(f"t{i}", deadline_at=LATER + timedelta(hours=i), now=NOW).request_id
        for i in range(4)
    ]
    fates = (RequestState.FAILED, RequestState.DONE, RequestState.CANCELLED)
    for minute, (request_id, fate) in enumerate(zip(ids, fates, strict=False)):
        moment = NOW + timedelta(minutes=minute)
        queue.move(request_id, expected=RequestState.QUEUED, state=fate, now=moment)
    assert [request.request_id for request in queue.last_ended(2)] == [ids[2], ids[1]]
    assert len(queue.last_ended(10)) == 3


def test_the_newest_are_the_open_ones_and_those_that_ended_last(queue: RequestStore) -> None:
    ids = {}
    for minute, name in enumerate(["old", "waits", "over", "new"]):
        moment = NOW + timedelta(minutes=minute)
        # The newest has the latest deadline: what came first is not what is due first.
        made = queue.submit(name, deadline_at=LATER + timedelta(hours=minute), now=moment)
        ids[name] = made.request_id
    for name, minute in (("old", 10), ("over", 20)):
        ended = NOW + timedelta(minutes=minute)
        done = RequestState.DONE
        queue.move(ids[name], expected=RequestState.QUEUED, state=done, now=ended)

    def listed(limit: int) -> tuple[list[str], int]:
        rows, left_out = queue.newest(limit)
        return [row.task for row in rows], left_out

    assert listed(9) == (["old", "waits", "over", "new"], 0)
    assert listed(3) == (["waits", "over", "new"], 1)
    assert listed(1) == (["new"], 3)


def test_of_two_movers_one_wins(queue: RequestStore) -> None:
    request = queue.submit("task", deadline_at=LATER, now=NOW)
    move = {"expected": RequestState.QUEUED, "state": RequestState.LAUNCHED}
    assert queue.move(request.request_id, **move, run_id="r1")
    assert not queue.move(request.request_id, **move, run_id="r2")
    assert queue.get(request.request_id).run_id == "r1"


def test_what_is_in_flight_is_read_whole_and_of_each_models_queue_the_first(
    queue: RequestStore,
) -> None:
    def add(task: str, base_model: str, minutes: int) -> str:
        at = LATER + timedelta(minutes=minutes)
        made = queue.submit(task, deadline_at=at, now=NOW, base_model=base_model, lookup=False)
        return made.request_id

    for minute in range(5):
        add(f"other {minute}", "other", minute)
    ids = {task: add(task, "tiny", 10 + i) for i, task in enumerate(["starts", "runs", "bound"])}
    for task in ("late", "next"):
        ids[task] = add(task, "tiny", 30 - len(task))
    ids["next"] = add("first", "tiny", 20)
    assert queue.take(ids["starts"], owner="o", now=NOW, hold_s=9.0)
    assert queue.move(
        ids["runs"], expected=RequestState.QUEUED, state=RequestState.LAUNCHED, run_id="r"
    )
    assert queue.bind_run(ids["bound"], attempt=1, run_id="b")
    assert [r.task for r in queue.in_flight()] == ["starts", "runs", "bound"]
    first = queue.first_queued(["tiny", "nobody", "other"], 2)
    assert [r.task for r in first] == ["bound", "first", "other 0", "other 1"]
    assert queue.count_queued() == {"other": 5, "tiny": 4}
    assert queue.has_queued()
    assert queue.has_queued(["other"])
    assert not queue.has_queued(["nobody"])
    assert [work.deadline_at for work in queue.queued_work("other", LATER)] == [LATER]
    assert len(queue.queued_work("other")) == 5
    assert queue.queued_work("other")[0][1:] == (40.0, 40.0, False)


def test_what_a_round_reads_does_not_scan_the_table(tmp_path: Path) -> None:
    queue = RequestStore(f"sqlite:///{tmp_path}/requests.db")
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in cursor.fetchall())

    queue.find(limit=1)
    sa.event.listen(engine(queue.url), "before_cursor_execute", explain)
    queue.in_flight()
    queue.first_queued(["tiny"], 10)
    queue.has_queued(["tiny"])
    queue.queued_work("tiny", LATER)
    queue.last_ended(10)
    reads = [plan for plan in plans if plan.startswith(("SCAN", "SEARCH"))]
    assert len(reads) == 7
    assert not [plan for plan in reads if "INDEX" not in plan]
    assert "USING COVERING INDEX queue_by_model" in reads[-2]


def test_a_wait_for_a_locked_database_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = RequestStore(f"sqlite:///{tmp_path}/requests.db")
    queue.submit("first", deadline_at=LATER, now=NOW)
    waiting = sqlite3.connect(tmp_path / "requests.db", check_same_thread=False)
    waiting.execute("BEGIN EXCLUSIVE")
    release = Timer(0.6, waiting.rollback)
    release.start()
    with transaction(queue.url, notice_after_s=0.1) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(requests)) == 1
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"waiting for sqlite:///{tmp_path}/requests.db: another process")
    release.join()
    waiting.close()
    with transaction(queue.url, notice_after_s=0.5):
        pass
    time.sleep(0.6)
    assert len(caplog.records) == 1


def test_a_deadline_in_the_past_is_refused_and_adds_nothing(queue: RequestStore) -> None:
    with pytest.raises(RequestError, match="has passed"):
        queue.submit("task", deadline_at=NOW, now=NOW)
    assert queue.find() == []


def test_an_unknown_request_is_named(queue: RequestStore) -> None:
    with pytest.raises(RequestError, match="'nope'"):
        queue.get("nope")


def test_an_idempotency_key_adds_one_request_for_its_tenant(queue: RequestStore) -> None:
    submit = {"deadline_at": LATER, "now": NOW, "idempotency_key": "k"}
    first = queue.submit("task", **submit)
    assert queue.submit("task", **submit) == first
    # Whoever was cut off asks again, maybe after the deadline.
    assert queue.submit("task", **submit | {"now": LATER + timedelta(days=1)}) == first
    other = queue.submit("task", tenant="other", **submit)
    assert other.request_id != first.request_id
    with pytest.raises(RequestError, match="key 'k' stands for request"):
        queue.submit("another", **submit)
    assert len(queue.find()) == 2


def test_a_tenant_sees_and_changes_only_its_own_requests(queue: RequestStore) -> None:
    own = queue.submit("own", deadline_at=LATER, now=NOW, tenant="acme")
    soon = NOW + timedelta(seconds=1)
    other = queue.submit("other", deadline_at=LATER, now=soon, tenant="rival")
    assert queue.find(tenant="acme") == [own]
    assert queue.newest(9, tenant="acme") == ([own], 0)
    assert queue.newest(1) == ([other], 1)
    assert queue.get(own.request_id, tenant="acme") == own
    unknown = other.request_id
    for refused in (
        lambda: queue.get(unknown, tenant="acme"),
        lambda: queue.cancel(unknown, now=NOW, tenant="acme"),
        lambda: queue.to_retry(unknown, now=NOW, tenant="acme"),
        lambda: queue.retry(unknown, now=NOW, tenant="acme"),
    ):
        with pytest.raises(RequestError, match=f"no tuning request '{unknown}'"):
            refused()
    assert queue.get(unknown) == other
    assert queue.move(unknown, expected=RequestState.QUEUED, state=RequestState.LAUNCHED)
    with pytest.raises(RequestError, match="no tuning request"):
        queue.cancel(unknown, now=NOW, tenant="acme")
    assert not queue.get(unknown).cancel_requested
    assert queue.cancel(own.request_id, now=NOW, tenant="acme").state is RequestState.CANCELLED
    assert queue.retry(own.request_id, now=NOW, tenant="acme").attempt == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "idempotency_key",
            "k" * 201,
            "idempotency key kkkkkkkkkkkkkkkkkkkk…: expected at most 200",
        ),
        ("idempotency_key", "", "idempotency key: must not be empty"),
        ("tenant", "t" * 201, "tenant ttt"),
        ("tenant", " ", "tenant: must not be empty"),
        ("task", "t" * 201, "task ttt"),
        ("base_model", "t" * 201, "base model ttt"),
        ("max_iterations", 0, "max_iterations: expected 1 to"),
        ("max_iterations", 2**40, "max_iterations: expected 1 to"),
    ],
)
def test_what_no_column_holds_is_refused_by_name(
    queue: RequestStore, field: str, value: object, message: str
) -> None:
    fields: dict[str, Any] = {"task": "task", field: value}
    with pytest.raises(RequestError, match=message):
        queue.submit(deadline_at=LATER, now=NOW, **fields)
    assert queue.find() == []


def test_under_several_readers_each_request_goes_to_one(queue: RequestStore) -> None:
    ids = [queue.submit(f"t{i}", deadline_at=LATER, now=NOW).request_id for i in range(10)]
    together = Barrier(4)

    def read(reader: int) -> list[str]:
        together.wait()
        return [i for i in ids if queue.take(i, owner=f"r{reader}", now=NOW, hold_s=30.0)]

    with ThreadPoolExecutor(4) as readers:
        taken = [i for got in readers.map(read, range(4)) for i in got]
    assert sorted(taken) == sorted(ids)


def test_what_is_held_too_long_can_be_taken_by_another(queue: RequestStore) -> None:
    request = queue.submit("task", deadline_at=LATER, now=NOW)
    assert queue.take(request.request_id, owner="dies", now=NOW, hold_s=30.0)
    soon, then = NOW + timedelta(seconds=29), NOW + timedelta(seconds=31)
    assert not queue.take(request.request_id, owner="next", now=soon, hold_s=30.0)
    assert queue.take(request.request_id, owner="next", now=then, hold_s=30.0)
    assert not queue.give_back(request.request_id, owner="dies")
    assert queue.give_back(request.request_id, owner="next")
    assert queue.get(request.request_id).state is RequestState.QUEUED


def test_what_is_queued_is_cancelled_at_once_what_runs_is_asked_to_end(queue: RequestStore) -> None:
    waiting = queue.submit("waits", deadline_at=LATER, now=NOW)
    running = queue.submit("runs", deadline_at=LATER, now=NOW)
    queue.move(running.request_id, expected=RequestState.QUEUED, state=RequestState.LAUNCHED)
    assert queue.cancel(waiting.request_id, now=NOW).state is RequestState.CANCELLED
    asked = queue.cancel(running.request_id, now=NOW)
    assert (asked.state, asked.cancel_requested) == (RequestState.LAUNCHED, True)
    with pytest.raises(RequestError, match="is cancelled already"):
        queue.cancel(waiting.request_id, now=NOW)


def test_a_cancel_before_the_launch_ends_it_when_it_is_given_back(queue: RequestStore) -> None:
    request_id = queue.submit("task", deadline_at=LATER, now=NOW).request_id
    assert queue.take(request_id, owner="first", now=NOW, hold_s=30.0)
    assert queue.cancel(request_id, now=NOW).state is RequestState.STARTING
    assert not queue.give_back(request_id, owner="another")
    assert queue.give_back(request_id, owner="first", now=NOW)
    ended = queue.get(request_id)
    assert (ended.state, ended.finished_at) == (RequestState.CANCELLED, NOW)
    assert not queue.take(request_id, owner="next", now=LATER, hold_s=30.0)


def test_a_cancel_ends_what_was_held_too_long_and_has_no_run(queue: RequestStore) -> None:
    request_id = queue.submit("task", deadline_at=LATER, now=NOW).request_id
    soon, then = NOW + timedelta(seconds=29), NOW + timedelta(seconds=31)
    assert queue.take(request_id, owner="dies", now=NOW, hold_s=30.0)
    assert not queue.end_cancelled(request_id, now=then)
    queue.cancel(request_id, now=NOW)
    assert not queue.end_cancelled(request_id, now=soon)
    assert not queue.take(request_id, owner="next", now=then, hold_s=30.0)
    assert queue.end_cancelled(request_id, now=then)
    assert queue.get(request_id).state is RequestState.CANCELLED


def test_what_was_held_too_long_and_has_a_run_is_neither_taken_nor_over(
    queue: RequestStore,
) -> None:
    request_id = queue.submit("task", deadline_at=LATER, now=NOW).request_id
    then = NOW + timedelta(seconds=31)
    assert queue.take(request_id, owner="slow", now=NOW, hold_s=30.0)
    assert queue.bind_run(request_id, attempt=1, run_id="run")
    assert not queue.take(request_id, owner="next", now=then, hold_s=30.0)
    queue.cancel(request_id, now=then)
    # Its run is to be cancelled, which ends the request.
    assert not queue.end_cancelled(request_id, now=then)
    assert queue.get(request_id).state is RequestState.STARTING


def test_a_retry_is_a_new_attempt_of_the_same_request(queue: RequestStore) -> None:
    request = queue.submit("task", deadline_at=LATER, now=NOW)
    with pytest.raises(RequestError, match="is queued: only a failed"):
        queue.retry(request.request_id, now=NOW)
    queue.cancel(request.request_id, now=NOW)
    again = queue.retry(request.request_id, now=NOW)
    assert (again.attempt, again.state) == (2, RequestState.QUEUED)
    assert again.run_key != request.run_key
    queue.cancel(request.request_id, now=NOW)
    with pytest.raises(RequestError, match="deadline has passed"):
        queue.retry(request.request_id, now=LATER)


def test_a_table_of_an_older_version_gains_the_missing_columns(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    with sa.create_engine(url).begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE tuning_requests (request_id VARCHAR(32) PRIMARY KEY, task TEXT, "
                "submitted_at DATETIME, deadline_at DATETIME, tenant TEXT, state TEXT, "
                "run_id TEXT, message TEXT)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO tuning_requests VALUES ('a', 'task', '2030-01-01 00:00:00.000000', "
                "'2030-01-02 00:00:00.000000', 'default', 'queued', NULL, NULL)"
            )
        )
    request = RequestStore(url).get("a")
    assert (request.attempt, request.cancel_requested) == (1, False)
    assert request.deadline_at == datetime(2030, 1, 2, tzinfo=UTC)
    indexes = {index["name"] for index in sa.inspect(engine(url)).get_indexes("tuning_requests")}
    assert {index.name for index in requests.indexes} <= indexes


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "request_queue_url: expected sqlite:///FILE or"),
        ("postgresql://host:port/x", "request_queue_url: expected"),
        ("mysql://host/x", "request_queue_url: expected"),
        (
            "postgresql+nope://u:secret@host/x",
            r"request queue postgresql\+nope://u:\*\*\*@host/x: ",
        ),
        ("sqlite:///{tmp_path}/notes.txt", "notes.txt: file is not a database"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_by_its_setting(
    tmp_path: Path, url: str, message: str
) -> None:
    (tmp_path / "notes.txt").write_text("no database, but notes of a page or so\n" * 50)
    with pytest.raises(RequestError, match=message):
        RequestStore(url.format(tmp_path=tmp_path)).find()


STEPS = st.sampled_from(["take", "give_back", "launch", "finish", "fail", "cancel", "retry"])


@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 1)), max_size=12))
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_an_attempt_ends_once(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    queue = RequestStore(f"sqlite:///{tmp_path}/property.db")
    request_id = queue.submit("task", deadline_at=LATER, now=NOW).request_id
    starting, launched = RequestState.STARTING, RequestState.LAUNCHED
    ends: list[int] = []
    for step, who in steps:
        before = queue.get(request_id)
        owner = f"o{who}"
        try:
            if step == "take":
                won = queue.take(request_id, owner=owner, now=NOW, hold_s=30.0)
                assert won == (before.state is RequestState.QUEUED)
            elif step == "give_back":
                won = queue.give_back(request_id, owner=owner)
                assert won == (before.state is starting and before.owner == owner)
                if won and before.cancel_requested:
                    ends.append(before.attempt)
            elif step == "launch":
                queue.move(request_id, expected=starting, state=launched)
            elif step in ("finish", "fail"):
                end = RequestState.DONE if step == "finish" else RequestState.FAILED
                if queue.move(request_id, expected=launched, state=end):
                    ends.append(before.attempt)
            elif step == "cancel":
                if queue.cancel(request_id, now=NOW).state is RequestState.CANCELLED:
                    ends.append(before.attempt)
            else:
                queue.retry(request_id, now=NOW)
        except RequestError:
            assert queue.get(request_id) == before
    assert len(ends) == len(set(ends))
    now = queue.get(request_id)
    assert (now.state in OPEN_STATES) == (now.attempt not in ends)
