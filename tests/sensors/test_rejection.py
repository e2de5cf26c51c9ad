"""What a round of the scheduler does with every action that a policy can ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

import dagster as dg
import pytest

from maitre.requests import RequestState
from maitre.requests.store import RequestStore
from maitre.scheduling import actions as act
from maitre.scheduling.snapshot import Snapshot
from maitre.settings import Settings
from maitre.workers.launch.dagster_runs import DagsterRuns
from maitre.workers.scheduling.decision_log import read_tick
from maitre.workers.scheduling.round import Round, schedule
from tests.sensors.said_pool import NOW, SaidPool, submit


@dataclass(frozen=True)
class Fixed:
    """A policy that asks for the same actions whatever it sees."""

    choose: Callable[[Snapshot], Sequence[act.Action]]
    name: str = "fixed"

    def decide(self, snapshot: Snapshot) -> Sequence[act.Action]:
        return self.choose(snapshot)


def reject_all(snapshot: Snapshot) -> list[act.Action]:
    return [
        act.RejectJob(job_id, "too late")
        for pool in snapshot.pools.values()
        for job_id in pool.queued
    ]


def run_round(
    settings: Settings,
    instance: dg.DagsterInstance,
    choose: Callable[[Snapshot], Sequence[act.Action]],
    idle: int = 1,
) -> tuple[Round, SaidPool]:
    store = RequestStore(settings.request_queue_url)
    pool = SaidPool(idle=idle)
    queued = store.find([RequestState.QUEUED])
    runs = DagsterRuns(settings, instance)
    return schedule(settings, runs, pool, queued, NOW, Fixed(choose)), pool


def test_a_rejected_request_ends_as_failed_with_the_reason_once(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a", "b")
    done, _ = run_round(settings, instance, reject_all)
    assert done.starts == []
    ended = store.find([RequestState.FAILED])
    assert {request.task for request in ended} == {"a", "b"}
    for request in ended:
        assert request.message == "rejected by the policy fixed: too late"
        assert request.finished_at == NOW
    again, _ = run_round(settings, instance, reject_all)
    assert again.notes == []
    # Its owner may ask for it again.
    assert (
        store.retry(ended[0].request_id, deadline_at=NOW + timedelta(minutes=9), now=NOW).state
        is RequestState.QUEUED
    )


def test_the_decision_log_holds_the_rejection(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    run_round(settings, instance, reject_all)
    [path] = (settings.scratch / "ticks").glob("tick-*.json")
    decision = read_tick(path)
    assert decision.policy == "fixed"
    assert decision.actions == (act.RejectJob(request.request_id, "too late"),)


def test_a_request_that_has_been_taken_or_is_to_be_cancelled_is_not_rejected(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    assert store.take(request.request_id, owner="another", now=NOW, hold_s=60.0)
    done, _ = run_round(settings, instance, lambda _: [act.RejectJob(request.request_id)])
    assert store.get(request.request_id).state is RequestState.STARTING
    assert done.notes == [f"{request.request_id}: not rejected: it no longer waits"]


@pytest.mark.parametrize("kind", get_args(act.Action), ids=lambda kind: kind.__name__)
def test_every_action_is_carried_out_or_named_in_the_notes(
    settings: Settings, instance: dg.DagsterInstance, kind: type[act.Action]
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    job = request.request_id
    action = {
        act.StartWorkers: act.StartWorkers("tiny", 1),
        act.LoadModel: act.LoadModel("w0", "tiny"),
        act.StopWorker: act.StopWorker("w0"),
        act.StartLookup: act.StartLookup(job, "w0"),
        act.StartJob: act.StartJob(job, ("w0",)),
        act.ResizeJob: act.ResizeJob(job, ("w0",)),
        act.PreemptJob: act.PreemptJob(job),
        act.RejectJob: act.RejectJob(job),
        act.WaitUntil: act.WaitUntil(1.0),
    }[kind]
    done, pool = run_round(settings, instance, lambda _: [action], idle=2)
    assert not any(note.startswith("cannot do") for note in done.notes)
    acted = bool(done.starts or pool.grown or pool.shrunk or store.get(job).state.is_final)
    # A job that does not run can neither be preempted nor resized.
    assert acted is (kind not in (act.WaitUntil, act.PreemptJob, act.ResizeJob))


@pytest.mark.parametrize(
    "action",
    [
        act.RejectJob("nobody"),
        act.PreemptJob("nobody"),
        act.StartJob("nobody", ("w0",)),
        act.StopWorker("gone"),
        act.LoadModel("gone", "tiny"),
        act.StartLookup("nobody", "w0"),
        act.ResizeJob("nobody", ("w0",)),
    ],
    ids=lambda action: type(action).__name__,
)
def test_an_action_on_an_unknown_name_is_refused_and_the_others_are_carried_out(
    settings: Settings, instance: dg.DagsterInstance, action: act.Action
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    also = act.StartJob(request.request_id, ("w0",))
    done, _ = run_round(settings, instance, lambda _: [action, also])
    assert [start.request.request_id for start in done.starts] == [request.request_id]
    [note] = [note for note in done.notes if note.startswith("refused")]
    assert "nobody" in note or "gone" in note


def test_a_request_whose_run_waits_ends_as_rejected_and_its_run_is_cancelled(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RequestStore(settings.request_queue_url)
    submit(store, "a")
    [request] = store.find()
    assert store.take(request.request_id, owner="sensor", now=NOW, hold_s=60.0)
    assert store.bind_run(request.request_id, attempt=request.attempt, run_id="run")
    assert store.move(
        request.request_id,
        expected=RequestState.STARTING,
        state=RequestState.LAUNCHED,
        run_id="run",
    )
    cancelled: list[str] = []
    monkeypatch.setattr(DagsterRuns, "to_resume", lambda *_: {"run": 0.0})
    monkeypatch.setattr(
        type(instance.run_coordinator), "cancel_run", lambda _, run_id: cancelled.append(run_id)
    )
    run_round(settings, instance, lambda _: [act.RejectJob(request.request_id, "too late")])
    ended = store.get(request.request_id)
    assert ended.state is RequestState.FAILED
    assert ended.message == "rejected by the policy fixed: too late"
    assert cancelled == ["run"]
