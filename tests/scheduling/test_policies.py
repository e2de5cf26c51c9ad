"""Every policy on random traces: its log keeps the contract, is deterministic, and adds up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.scheduling import POLICIES, Cluster, Job, ModelSpec, named_policy, replay, simulate
from maitre.scheduling.actions import LoadModel, StartWorkers
from maitre.scheduling.snapshot import Pool, Snapshot, Worker

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


@pytest.mark.slow
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


def test_a_worker_that_waits_for_its_set_looks_up_what_comes() -> None:
    """Two jobs of a model that needs pairs: the second is looked up while the first one waits."""
    model = ModelSpec("m", 10.0, 5.0, 1.0, {2: 1.0})
    cluster = Cluster(2, 1.0, {"m": model})
    jobs = [
        Job("first", "m", 0.0, 500.0, 100.0, 30.0, 100.0, 30.0),
        Job("second", "m", 0.0, 600.0, 100.0, 30.0, 100.0, 30.0),
    ]
    with_it = simulate(jobs, cluster, named_policy("maitre"))
    without = simulate(jobs, cluster, named_policy("maitre", lookup_ahead=False))
    assert with_it.outcome.violations == without.outcome.violations == 0
    assert with_it.outcome.gpu_hours < without.outcome.gpu_hours - 4.0 / 3600
    assert {e.worker for e in with_it.events if e.kind == "lookup_start"} == {"w1", "w2"}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_dearer_number_of_workers_that_is_no_faster_is_never_used(policy: str) -> None:
    model = ModelSpec("m", 5.0, 2.0, 1.0, {1: 1.0, 2: 0.6, 4: 0.7, 8: 0.65})
    cluster = Cluster(16, 1.0, {"m": model})
    jobs = [
        Job(f"j{i}", "m", 10.0 * i, 10.0 * i + deadline, 60.0, 60.0, 60.0, 60.0)
        for i, deadline in enumerate((30.0, 45.0, 50.0, 70.0, 300.0))
    ]
    run = simulate(jobs, cluster, named_policy(policy))
    sizes = {e.worker.count(";") + 1 for e in run.events if e.kind in ("job_start", "job_resize")}
    assert sizes <= {1, 2}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_cluster_smaller_than_the_cheapest_set_still_finishes(policy: str) -> None:
    """Two workers are cheaper than one (superlinear), but there is one GPU."""
    model = ModelSpec("m", 5.0, 2.0, 1.0, {1: 1.0, 2: 0.4})
    job = Job("j", "m", 0.0, 200.0, 50.0, 20.0, 50.0, 20.0)
    assert simulate([job], Cluster(1, 1.0, {"m": model}), named_policy(policy)).outcome.late == 0


def test_hopeless_jobs_run_last_unless_they_are_to_be_rejected() -> None:
    model = ModelSpec("m", 5.0, 2.0, 1.0, {1: 1.0})
    cluster = Cluster(1, 1.0, {"m": model})
    jobs = [
        Job("hopeless", "m", 0.0, 20.0, 200.0, 200.0, 200.0, 200.0),
        Job("fine", "m", 1.0, 100.0, 20.0, 20.0, 20.0, 20.0),
    ]
    kept = simulate(jobs, cluster, named_policy("maitre"))
    dropped = simulate(jobs, cluster, named_policy("maitre", reject_hopeless=True))
    assert kept.outcome.violations == dropped.outcome.violations == 1
    assert [e.job_id for e in kept.events if e.kind == "job_finish"] == ["fine", "hopeless"]
    assert [e.job_id for e in dropped.events if e.kind == "job_reject"] == ["hopeless"]
    assert dropped.outcome.gpu_hours < kept.outcome.gpu_hours


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("held", [4, 8])
def test_with_more_workers_than_gpus_none_is_started_or_loaded_anew(policy: str, held: int) -> None:
    """A live cluster's file may come to name fewer GPUs than are held."""
    model = MODELS["small"]
    workers = {
        name: Worker(name, model.name, "idle", 0.0, 0.0) for name in (f"w{i}" for i in range(held))
    }
    pool = Pool(model, {}, {}, {}, workers, workers, [], [])
    cluster = Cluster(4, 2.0, {model.name: model})
    seen = Snapshot(1e4, cluster, {model.name: pool}, {}, held, frozenset((model.name,)))
    decided = named_policy(policy).decide(seen)
    assert not [action for action in decided if isinstance(action, StartWorkers | LoadModel)]
