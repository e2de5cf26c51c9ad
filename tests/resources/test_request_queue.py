from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.request_queue import RequestError, RequestQueue, RequestState

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def queue(tmp_path: Path) -> RequestQueue:
    return RequestQueue(url=f"sqlite:///{tmp_path}/deep/requests.db")


def test_the_earliest_deadline_comes_first_and_keeps_its_zone(queue: RequestQueue) -> None:
    late = queue.submit("late", deadline_at=NOW + timedelta(hours=2), now=NOW)
    soon = queue.submit("soon", deadline_at=NOW + timedelta(hours=1), now=NOW)
    assert [r.request_id for r in queue.find()] == [soon.request_id, late.request_id]
    assert queue.get(soon.request_id) == soon


def test_of_two_movers_one_wins(queue: RequestQueue) -> None:
    request = queue.submit("task", deadline_at=NOW + timedelta(hours=1), now=NOW)
    move = {"expected": RequestState.QUEUED, "state": RequestState.LAUNCHED}
    assert queue.move(request.request_id, **move, run_id="r1")
    assert not queue.move(request.request_id, **move, run_id="r2")
    assert queue.get(request.request_id).run_id == "r1"


def test_a_deadline_in_the_past_is_refused_and_adds_nothing(queue: RequestQueue) -> None:
    with pytest.raises(RequestError, match="has passed"):
        queue.submit("task", deadline_at=NOW, now=NOW)
    assert queue.find() == []


def test_an_unknown_request_is_named(queue: RequestQueue) -> None:
    with pytest.raises(RequestError, match="'nope'"):
        queue.get("nope")
