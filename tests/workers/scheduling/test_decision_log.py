"""What the policy sees of the live system, and that a decision can be taken again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from maitre.requests.request import HANDED_TO, RequestState, TuningRequest
from maitre.scheduling.actions import StartWorkers
from maitre.scheduling.cluster import Cluster, ModelSpec
from maitre.scheduling.errors import SchedulingError
from maitre.scheduling.policies import named_policy
from maitre.scheduling.snapshot import Snapshot
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.protocol import ClaimView, WorkerView
from maitre.workers.scheduling.decision_log import Decision, TickError, read_tick, write_tick
from maitre.workers.scheduling.forecast import forecast
from maitre.workers.scheduling.live_snapshot import job_view, live_snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOW_S = NOW.timestamp()
MODEL = ModelSpec("tiny", warm_up_s=10.0, lookup_s=2.0, resize_s=1.0, iteration_s={1: 0.5})
CLUSTER = Cluster(4, 3.6, {"tiny": MODEL})


def request(
    name: str, state: RequestState = RequestState.QUEUED, **fields: object
) -> TuningRequest:
    values: dict = {
        "request_id": name, "task": name, "base_model": "tiny", "tenant": "default",
        "submitted_at": NOW - timedelta(seconds=5), "deadline_at": NOW + timedelta(minutes=5),
        "state": state, "lookup": False,
    }  # fmt: skip
    return TuningRequest(**(values | fields))


def worker(name: str, state: str | None, claim: ClaimView | None = None) -> PoolWorker:
    view = None
    if state is not None:
        view = WorkerView(name, "tiny", state, NOW_S - 3, NOW_S - 60, claim)
    return PoolWorker(name, "http://x" if state else "", "tiny", NOW_S - 4, view)


def claim(run_id: str, phase: str, iteration: int = 0) -> ClaimView:
    return ClaimView("attempt", run_id, phase, iteration, 40, {"lookup": NOW_S - 1})


def test_workers_and_requests_become_what_the_simulator_shows() -> None:
    launched = RequestState.LAUNCHED
    seen = live_snapshot(
        NOW_S,
        CLUSTER,
        [
            request("waits"),
            request("looks", launched, run_id="r1", lookup=True),
            request("runs", launched, run_id="r2"),
            request("lost", launched, run_id="r3"),
            request("handed", RequestState.STARTING, owner=HANDED_TO + "c"),
            request("over", RequestState.DONE, finished_at=NOW),
        ],
        [
            worker("a", "busy", claim("r1", "lookup")),
            worker("b", "busy", claim("r2", "tuning", 7)),
            worker("c", "idle"),
            worker("d", "idle"),
            worker("e", None),
        ],
        {"r3": 12},
    ).pools["tiny"]
    assert set(seen.queued) == {"waits", "lost"}
    assert seen.queued["lost"].started
    assert seen.lookups["looks"].ends_s == NOW_S + 1
    assert seen.running["runs"].job.iterations_done == 7
    assert seen.running["handed"].workers == ("c",)
    assert set(seen.idle) == {"d"}
    assert {name: w.state for name, w in seen.workers.items()} == {
        "a": "lookup", "b": "running", "c": "running", "d": "idle", "e": "loading",
    }  # fmt: skip
    assert seen.workers["e"].ready_s == NOW_S + 6
    assert [c.violated for c in seen.completions] == [False]


@pytest.mark.parametrize(
    ("has_answered", "age_s", "state", "ready_in_s"),
    [
        (None, 4, "loading", 6),  # nobody knows, and it may still load
        (None, 40, "running", 0),
        (False, 40, "loading", 0),  # a pod that starts, or fails to, for long
        (True, 4, "running", 6),  # it was up and does not answer
    ],
)
def test_a_worker_with_an_address_that_does_not_answer(
    has_answered: bool | None, age_s: float, state: str, ready_in_s: float
) -> None:
    silent = PoolWorker("w", "http://x", "tiny", NOW_S - age_s, None, has_answered)
    seen = live_snapshot(NOW_S, CLUSTER, [], [silent], {}).pools["tiny"].workers["w"]
    assert (seen.state, seen.ready_s - NOW_S) == (state, ready_in_s)


def test_a_run_on_several_workers_is_seen_as_one_job_at_their_speed() -> None:
    quick = ModelSpec("tiny", 10.0, 2.0, 1.0, {1: 0.5, 2: 0.3})
    helping = replace(claim("r", "helping"), rank=1, size=2)
    leading = replace(claim("r", "tuning", 7), size=2)
    alone = replace(claim("gone", "helping"), rank=1, size=2)
    workers = [
        worker("a", "busy", helping), worker("b", "busy", leading), worker("c", "busy", alone),
    ]  # fmt: skip
    asked = [
        request("shared", RequestState.LAUNCHED, run_id="r"),
        request("handed", RequestState.STARTING, owner=f"{HANDED_TO}d,e"),
        # Its first worker is gone; who helped it lets go in a moment.
        request("lost", RequestState.LAUNCHED, run_id="gone"),
    ]
    idle = [worker("d", "idle"), worker("e", "idle")]
    seen = live_snapshot(
        NOW_S, Cluster(5, 1.0, {"tiny": quick}), asked, [*workers, *idle], {"gone": 1}
    ).pools["tiny"]
    found = {name: (job.workers, job.iteration_s) for name, job in seen.running.items()}
    assert found == {"shared": (("b", "a"), 0.3), "handed": (("d", "e"), 0.3)}
    assert seen.running["shared"].job.iterations_done == 7
    assert set(seen.queued) == {"lost"}
    assert not seen.idle


def test_a_worker_whose_run_has_ended_comes_free_at_once() -> None:
    asked = [
        request("over", RequestState.DONE, run_id="r1", finished_at=NOW),
        request("gone", RequestState.FAILED, run_id="r2", finished_at=NOW),
        request("waits"),
    ]
    busy = [worker(n, "busy", claim(r, "registering", 40)) for n, r in (("a", "r1"), ("b", "r2"))]
    leaves = worker("c", "draining", claim("r1", "registering", 40))
    # Of a run that nobody requested it is not known how long it takes.
    by_hand = worker("d", "busy", claim("r3", "tuning", 3))
    seen = live_snapshot(NOW_S, CLUSTER, asked, [*busy, leaves, by_hand], {})
    states = {name: w.state for name, w in seen.pools["tiny"].workers.items()}
    assert states == {"a": "loading", "b": "loading", "c": "running", "d": "running"}
    assert 0 < seen.pools["tiny"].workers["a"].ready_s - NOW_S < 1
    # So no worker is started for what can wait that long.
    decided = named_policy("maitre").decide(seen)
    assert not [action for action in decided if isinstance(action, StartWorkers)]


def test_a_claimed_request_whose_row_does_not_name_its_run_yet_is_running() -> None:
    handed = request("handed", RequestState.STARTING, owner=HANDED_TO + "a")
    stale = request("stale", RequestState.STARTING, owner=HANDED_TO + "b")
    other = request("other", RequestState.LAUNCHED, run_id="r2")
    workers = [
        worker("a", "busy", claim("r1", "starting")), worker("b", "busy", claim("r2", "tuning")),
    ]  # fmt: skip
    seen = live_snapshot(NOW_S, CLUSTER, [handed, stale, other], workers, {}).pools["tiny"]
    assert {name: job.workers for name, job in seen.running.items()} == {
        "handed": ("a",), "other": ("b",),
    }  # fmt: skip


@pytest.mark.parametrize(("left_s", "waits"), [(1.0, False), (-1.0, True)])
def test_a_request_that_was_taken_and_not_started_in_time_waits_again(
    left_s: float, waits: bool
) -> None:
    held_until = NOW + timedelta(seconds=left_s)
    taken = request("a", RequestState.STARTING, owner=HANDED_TO + "w", held_until=held_until)
    seen = live_snapshot(NOW_S, CLUSTER, [taken], [worker("w", "idle")], {}).pools["tiny"]
    assert ("a" in seen.queued) is waits
    assert ("w" in seen.idle) is waits


def test_a_lookup_for_quality_counts_as_the_iterations_of_its_time() -> None:
    assert job_view(request("a", lookup=True), MODEL).iterations_cold_estimate == 44
    saves = request("b", lookup=True, iterations_bank=20.0)
    assert job_view(saves, MODEL).iterations_cold_estimate == 40


@pytest.mark.parametrize(
    ("states", "ahead", "expected_s"),
    [
        (["idle"], 0, 20.0),  # now, on the idle worker
        (["idle"], 1, 30.0),  # it goes to the earlier one; a cold GPU is quicker than waiting
        ([None], 0, 26.0),  # ready in 6 s
        ([], 0, 30.0),  # nothing is held
        ([], 4, 50.0),  # and all four GPUs go to others first
    ],
)
def test_a_forecast_counts_who_goes_first(
    states: list[str | None], ahead: int, expected_s: float
) -> None:
    others = [request(f"o{i}", deadline_at=NOW + timedelta(seconds=60 + i)) for i in range(ahead)]
    workers = [worker(f"w{i}", state) for i, state in enumerate(states)]
    seen = live_snapshot(NOW_S, CLUSTER, others, workers, {})
    told = forecast(seen, job_view(request("new"), MODEL))
    assert told.finish_s - NOW_S == pytest.approx(expected_s)
    assert told.price == pytest.approx(20.0 / 3600 * 3.6)


STATES = st.sampled_from(["idle", "loading", "busy", "draining", None])


@given(
    states=st.lists(STATES, max_size=4),
    waits=st.integers(0, 5),
    runs=st.integers(0, 2),
    done=st.integers(0, 12),
)
@hypothesis_settings(deadline=None)
def test_a_decision_survives_its_document(
    states: list[str | None], waits: int, runs: int, done: int
) -> None:
    requests = [request(f"q{i}") for i in range(waits)]
    requests += [request(f"r{i}", RequestState.LAUNCHED, run_id=f"run{i}") for i in range(runs)]
    requests += [request(f"d{i}", RequestState.DONE, finished_at=NOW) for i in range(done)]
    workers = [
        worker(f"w{i}", state, claim(f"run{i}", "tuning", 3) if state == "busy" else None)
        for i, state in enumerate(states)
    ]
    seen = live_snapshot(NOW_S, CLUSTER, requests, workers, {})
    actions = list(named_policy("maitre").decide(seen))
    document = json.loads(json.dumps(Decision(seen, "maitre", tuple(actions)).to_json()))
    again = Decision.from_json(document)
    assert isinstance(again.snapshot, Snapshot)
    assert again.snapshot.pools == seen.pools
    assert list(again.actions) == actions
    assert list(again.decide_again()) == actions


def places(document: Any, where: tuple = ()) -> Iterator[tuple]:
    """Every key and index of a document, as a path."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        yield (*where, key)
        if isinstance(value, dict | list):
            yield from places(value, (*where, key))


def test_a_tick_of_another_shape_is_refused_wherever_that_is(tmp_path: Path) -> None:
    asked = [request("waits"), request("runs", RequestState.LAUNCHED, run_id="r")]
    workers = [worker("a", "busy", claim("r", "tuning", 7)), worker("b", "idle")]
    seen = live_snapshot(NOW_S, CLUSTER, asked, workers, {})
    actions = named_policy("maitre").decide(seen)
    document = Decision(seen, "maitre", tuple(actions)).to_json()
    refused = 0
    for where in places(json.loads(json.dumps(document))):
        for value in (None, "x", [1], {"x": 1}, "left out"):
            changed = json.loads(json.dumps(document))
            inner = changed
            for key in where[:-1]:
                inner = inner[key]
            if value == "left out":
                del inner[where[-1]]
            else:
                inner[where[-1]] = value
            path = tmp_path / "tick.json"
            path.write_text(json.dumps(changed))
            try:
                read_tick(path).decide_again()
            except (TickError, SchedulingError):
                refused += 1
    assert refused > 100


def test_the_last_ticks_are_kept_and_anything_else_is_refused(tmp_path: Path) -> None:
    seen = live_snapshot(NOW_S, CLUSTER, [], [], {})
    for second in range(4):
        later = replace(seen, time_s=NOW_S + second)
        path = write_tick(tmp_path, Decision(later, "maitre", ()), keep=2)
    assert sorted(tmp_path.iterdir())[-1].name == path.name
    assert len(list(tmp_path.iterdir())) == 2
    one_bytes = path.stat().st_size
    big = replace(seen, time_s=NOW_S + 9)
    last = write_tick(tmp_path, Decision(big, "maitre", ()), keep_bytes=2 * one_bytes)
    assert sorted(tmp_path.iterdir()) == [path, last]
    # The newest one stays, however large.
    assert write_tick(tmp_path, Decision(replace(seen, time_s=NOW_S + 10), "m", ()), keep_bytes=1)
    assert len(list(tmp_path.iterdir())) == 1
    other = tmp_path / "other.json"
    other.write_text('{"format": "else"}')
    with pytest.raises(TickError, match="not a tick"):
        read_tick(other)
