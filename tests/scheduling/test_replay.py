"""The checker against logs written by hand: one that keeps the contract, many that break it."""

import pytest

from maitre.scheduling import Cluster, Event, Job, ModelSpec, replay

CLUSTER = Cluster(2, 3.6, {"m": ModelSpec("m", 10.0, 2.0, 1.0, {1: 0.5, 2: 0.3})})
JOB = Job("j", "m", 0.0, 30.0, 40.0, 20.0, 40.0, 20.0)

# Lookup, ten of twenty iterations on one worker, a preemption, the rest on two.
LOG = [
    Event(0, "worker_start", "w1"),
    Event(0, "worker_load", "w1", "", "m"),
    Event(10_000, "worker_ready", "w1", "", "m"),
    Event(10_000, "lookup_start", "w1", "j", "m"),
    Event(10_000, "worker_start", "w2"),
    Event(10_000, "worker_load", "w2", "", "m"),
    Event(12_000, "lookup_end", "w1", "j", "m"),
    Event(12_000, "job_start", "w1", "j", "m"),
    Event(17_000, "job_preempt", "w1", "j", "m"),
    Event(20_000, "worker_ready", "w2", "", "m"),
    Event(20_000, "job_start", "w1;w2", "j", "m"),
    Event(24_000, "job_finish", "w1;w2", "j", "m"),
    Event(24_000, "worker_stop", "w1"),
    Event(25_000, "worker_stop", "w2"),
]


def test_a_good_log_has_no_problems_and_its_cost_is_the_time_held() -> None:
    result = replay(LOG, [JOB], CLUSTER)
    assert result.problems == []
    assert result.violations == 0
    assert result.cost == pytest.approx((24 + 15) / 3600 * 3.6)
    assert max(held for _, held in result.held) == 2


def test_a_late_a_rejected_and_a_missing_job_are_violations() -> None:
    jobs = [JOB, Job("k", "m", 0.0, 30.0, 4, 4, 4, 4), Job("l", "m", 0.0, 30.0, 4, 4, 4, 4)]
    log = [*LOG, Event(26_000, "job_reject", "", "k", "m")]
    result = replay(log, [Job("j", "m", 0.0, 23.0, 40, 20, 40, 20), *jobs[1:]], CLUSTER)
    assert (result.late, result.rejected, result.unfinished, result.violations) == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("index", "changed", "problem"),
    [
        (2, Event(9_000, "worker_ready", "w1", "", "m"), "warm_up_s"),
        (3, Event(9_999, "lookup_start", "w1", "j", "m"), "time goes backwards"),
        (6, Event(11_000, "lookup_end", "w1", "j", "m"), "lookup_s"),
        (7, Event(12_000, "job_start", "w2", "j", "m"), "before it is ready"),
        (7, Event(12_000, "job_start", "w9", "j", "m"), "not held"),
        (10, Event(20_000, "job_start", "w1", "j", "m"), "finishes after"),
        (11, Event(23_000, "job_finish", "w1;w2", "j", "m"), "finishes after"),
        (11, Event(24_500, "job_finish", "w1;w2", "j", "m"), "was done before"),
        (4, Event(10_000, "worker_start", "w1"), "starts twice"),
        (8, Event(17_000, "worker_stop", "w1"), "while busy"),
        (13, Event(25_000, "worker_ready", "w2"), "warm_up_s"),
        (0, Event(0, "worker_ready", "w1"), "not held"),
        (11, Event(24_000, "job_finish", "w1;w2", "x", "m"), "not in jobs.csv"),
    ],
)
def test_a_broken_rule_is_found(index: int, changed: Event, problem: str) -> None:
    log = [*LOG[:index], changed, *LOG[index + 1 :]]
    assert any(problem in line for line in replay(log, [JOB], CLUSTER).problems)


def test_more_workers_than_gpus_is_found() -> None:
    small = Cluster(1, 3.6, CLUSTER.models)
    assert any("1 GPUs" in line for line in replay(LOG, [JOB], small).problems)


def test_a_worker_used_twice_and_an_early_start_are_found() -> None:
    other = Job("k", "m", 21.0, 90.0, 4.0, 4.0, 4.0, 4.0)
    log = [*LOG[:11], Event(20_500, "job_start", "w1", "k", "m"), *LOG[11:]]
    problems = " ".join(replay(log, [JOB, other], CLUSTER).problems)
    assert "busy with j" in problems
    assert "not submitted yet" in problems
