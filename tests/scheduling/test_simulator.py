"""When a run of the simulator ends: when nothing can happen any more, and not before."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.scheduling import (
    POLICIES,
    Cluster,
    Event,
    Job,
    ModelSpec,
    named_policy,
    replay,
    simulate,
)
from maitre.scheduling.actions import Action, StartJob, StartWorkers, WaitUntil
from maitre.scheduling.errors import PolicyError, SchedulingError
from maitre.scheduling.snapshot import Snapshot

CLUSTER = Cluster(4, 3.6, {"m": ModelSpec("m", 10.0, 2.0, 1.0, {1: 0.5, 2: 0.3})})
DAY_S = 24 * 3600.0


def job(name: str, submitted_s: float, allowed_s: float, iterations: float) -> Job:
    counts = [iterations] * 4
    return Job(name, "m", submitted_s, submitted_s + allowed_s, *counts)


@dataclass(frozen=True)
class Lazy:
    """Starts two workers, never a job, and asks to be woken `every_s` seconds later."""

    every_s: float | None
    name: str = "lazy"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        actions: list[Action] = [] if snapshot.held else [StartWorkers("m", 2)]
        if self.every_s is not None:
            actions.append(WaitUntil(snapshot.time_s + self.every_s))
        return actions


@dataclass(frozen=True)
class Patient:
    """Starts a job on the first ready worker `after_s` seconds after the job's submission."""

    after_s: float
    name: str = "patient"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        pool = snapshot.pools["m"]
        if not pool.workers:
            return [StartWorkers("m", 1)]
        for queued in pool.queued.values():
            if queued.submitted_s + self.after_s > snapshot.time_s:
                return [WaitUntil(queued.submitted_s + self.after_s)]
            if pool.idle:
                return [StartJob(queued.job_id, (next(iter(pool.idle)),))]
        return []


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=8, deadline=None)
@given(
    days=st.lists(st.sampled_from([0.001, 0.5, 2.5]), min_size=1, max_size=2),
    gap_s=st.sampled_from([0.0, 500.0, 5 * DAY_S]),
    allowed=st.sampled_from([0.01, 1.5, 10.0]),
)
def test_no_job_is_left_however_long_it_takes(
    policy: str, days: list[float], gap_s: float, allowed: float
) -> None:
    jobs = [
        job(f"j{i}", i * gap_s, allowed * length * DAY_S, 2 * length * DAY_S)
        for i, length in enumerate(days)
    ]
    run = simulate(jobs, CLUSTER, named_policy(policy))
    assert run.outcome.unfinished == 0
    seen = replay(run.events, jobs, CLUSTER)
    assert seen.problems == []
    assert (seen.finished, seen.late) == (run.outcome.finished, run.outcome.late)


def test_a_late_job_may_run_through_more_rounds_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("maitre.scheduling.simulator._ROUNDS_WITHOUT_PROGRESS", 100)
    run = simulate([job("j", 0.0, 10.0, 4_000)], CLUSTER, named_policy("maitre"))
    assert run.outcome.decisions > 300
    assert run.outcome.finished == 1


def test_a_policy_may_wait_for_days() -> None:
    jobs = [job("j", 0.0, 100.0, 40)]
    run = simulate(jobs, CLUSTER, Patient(after_s=9 * DAY_S))
    assert (run.outcome.finished, run.outcome.late) == (1, 1)


def test_a_job_that_the_policy_leaves_is_unfinished_and_the_run_ends() -> None:
    jobs = [job("j", 0.0, 100.0, 40)]
    run = simulate(jobs, CLUSTER, Lazy(every_s=None))
    assert (run.outcome.unfinished, run.outcome.violations) == (1, 1)
    assert replay(run.events, jobs, CLUSTER).problems == []


@pytest.mark.parametrize("every_s", [0.1, 3600.0])
def test_a_policy_that_only_asks_to_be_woken_is_an_error(every_s: float) -> None:
    with pytest.raises(PolicyError, match="lazy ends no job any more: 1 of 1 jobs are open"):
        simulate([job("j", 0.0, 100.0, 40)], CLUSTER, Lazy(every_s))


@pytest.mark.parametrize("per_hour", [3600.0, 1e6])
def test_a_run_in_which_workers_fail_faster_than_jobs_restart_is_one_line(
    monkeypatch: pytest.MonkeyPatch, per_hour: float
) -> None:
    monkeypatch.setattr("maitre.scheduling.simulator._ROUNDS_WITHOUT_PROGRESS", 2_000)
    failing = replace(CLUSTER, failures_per_worker_hour=per_hour)
    with pytest.raises(SchedulingError, match=r"does not end: 1 of 1 jobs .* lower the cluster's"):
        simulate([job("j", 0.0, 100.0, 1e6)], failing, named_policy("earliest_deadline_first"))


def test_a_log_that_was_cut_off_breaks_a_rule() -> None:
    jobs = [job("j", 0.0, 500.0, 400)]
    cut = [
        Event(0, "worker_start", "w1"),
        Event(0, "worker_load", "w1", "", "m"),
        Event(10_000, "worker_ready", "w1", "", "m"),
        Event(10_000, "job_start", "w1", "j", "m"),
        Event(90_000, "job_preempt", "w1", "j", "m"),
        Event(90_000, "worker_stop", "w1"),
    ]
    [problem] = replay(cut, jobs, CLUSTER).problems
    assert "j is stopped by the end of the log" in problem
