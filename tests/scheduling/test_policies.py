"""Every policy on random traces: its log keeps the contract, is deterministic, and adds up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.scheduling import POLICIES, Cluster, Job, ModelSpec, named_policy, replay, simulate

MODELS = {
    "small": ModelSpec("small", 10.0, 2.0, 0.5, {1: 0.1, 2: 0.06, 4: 0.07}),
    "big": ModelSpec("big", 33.333, 5.1, 2.0, {2: 0.4, 4: 0.22}),
    "instant": ModelSpec("instant", 0.0, 0.0, 0.0, {1: 0.5}),
}


@st.composite
def random_jobs(draw: st.DrawFn) -> tuple[Job, ...]:
    jobs = []
    now = 0.0
    for index in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.001, 1.0, 17.0, 300.0]))
        cold = draw(st.integers(1, 900))
        bank = draw(st.integers(0, 900))
        error = draw(st.sampled_from([0.3, 0.8, 1.0, 1.3, 3.0]))
        jobs.append(
            Job(
                f"j{index}",
                draw(st.sampled_from(sorted(MODELS))),
                now,
                now + draw(st.sampled_from([0.5, 20.0, 80.0, 400.0])),
                cold,
                bank,
                cold * error,
                bank / error,
            )
        )
    return tuple(jobs)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=40, deadline=None)
@given(
    jobs=random_jobs(),
    gpus=st.sampled_from([2, 4, 9]),
    failures=st.sampled_from([0.0, 0.0, 60.0]),
)
def test_every_log_keeps_the_contract_and_adds_up(
    policy: str, jobs: tuple[Job, ...], gpus: int, failures: float
) -> None:
    cluster = Cluster(gpus, 2.0, MODELS, failures)
    run = simulate(jobs, cluster, named_policy(policy), seed=1)
    seen = replay(run.events, jobs, cluster)
    assert seen.problems == []
    assert seen.violations == run.outcome.violations
    assert seen.cost == pytest.approx(run.outcome.cost)
    assert seen.unfinished == 0
    parts = (
        run.outcome.busy_gpu_hours
        + run.outcome.lookup_gpu_hours
        + run.outcome.warming_gpu_hours
        + run.outcome.idle_gpu_hours
    )
    assert parts == pytest.approx(run.outcome.gpu_hours)
    assert run.outcome.idle_gpu_hours >= -1e-9
    assert max((held for _, held in seen.held), default=0) <= gpus
    again = simulate(jobs, cluster, named_policy(policy), seed=1)
    assert again.events == run.events


def test_a_preempted_job_loses_nothing_but_the_resize_cost() -> None:
    """A tight job takes the worker of a loose one on a cluster of one GPU; both are in time."""
    model = ModelSpec("m", 5.0, 1000.0, 1.0, {1: 1.0})
    cluster = Cluster(1, 1.0, {"m": model})
    loose = Job("loose", "m", 0.0, 500.0, 100.0, 100.0, 100.0, 100.0)
    tight = Job("tight", "m", 20.0, 50.0, 10.0, 10.0, 10.0, 10.0)
    run = simulate([loose, tight], cluster, named_policy("maitre"))
    assert run.outcome.violations == 0
    assert run.outcome.preemptions == 1
    finish = {event.job_id: event.time_ms for event in run.events if event.kind == "job_finish"}
    assert finish["tight"] <= 50_000
    # 5 s of warm-up, 100 s of its own, 10 s of the other's, 1 s to resume
    assert finish["loose"] == pytest.approx(116_000, abs=200)


def test_lookups_are_taken_where_they_are_worth_it() -> None:
    model = ModelSpec("m", 5.0, 10.0, 1.0, {1: 1.0})
    cluster = Cluster(2, 1.0, {"m": model})
    worth = Job("worth", "m", 0.0, 500.0, 100.0, 20.0, 100.0, 20.0)
    not_worth = Job("not", "m", 0.0, 500.0, 15.0, 12.0, 15.0, 12.0)
    run = simulate([worth, not_worth], cluster, named_policy("maitre"))
    assert [e.job_id for e in run.events if e.kind == "lookup_start"] == ["worth"]
