import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from maitre.scheduling import POLICIES, Cluster, Job, ModelSpec, named_policy, simulate
from maitre.scheduling.bound import clairvoyant_bound, least_gpu_s
from tests.scheduling.exact_search import INFINITE, cheapest_gpu_s

TINY = ModelSpec("m", 2.0, 1.0, 0.0, {1: 1.0, 2: 0.5})
SUBLINEAR = ModelSpec("m", 1.0, 1.0, 0.0, {1: 1.0, 2: 0.75})


@st.composite
def tiny_jobs(draw: st.DrawFn) -> tuple[Job, ...]:
    jobs = []
    for index in range(draw(st.integers(1, 2))):
        submitted = draw(st.integers(0, 5))
        deadline = submitted + draw(st.integers(2, 7))
        cold = draw(st.integers(1, 4))
        bank = draw(st.integers(1, cold))
        jobs.append(Job(f"j{index}", "m", submitted, deadline, cold, bank, cold, bank))
    return tuple(jobs)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tiny_jobs(), st.sampled_from([TINY, SUBLINEAR]), st.integers(0, 1))
def test_bound_is_never_above_the_exhaustive_optimum(
    jobs: tuple[Job, ...], model: ModelSpec, violations: int
) -> None:
    cluster = Cluster(2, 1.0, {"m": model})
    optimum_s = cheapest_gpu_s(jobs, cluster, violations)
    assume(optimum_s < INFINITE)
    assert clairvoyant_bound(jobs, cluster, violations) * 3600 <= optimum_s + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.lists(tiny_jobs(), min_size=1, max_size=6), st.sampled_from(sorted(POLICIES)))
def test_bound_is_never_above_a_policy(groups: list[tuple[Job, ...]], policy: str) -> None:
    cluster = Cluster(3, 1.0, {"m": TINY})
    jobs = [
        Job(f"{group}-{job.job_id}", *[getattr(job, name) for name in Job.__slots__[1:]])
        for group, members in enumerate(groups)
        for job in members
    ]
    outcome = simulate(jobs, cluster, named_policy(policy)).outcome
    assert clairvoyant_bound(jobs, cluster, outcome.violations) <= outcome.gpu_hours + 1e-9


def test_the_bound_is_exact_for_one_job() -> None:
    cluster = Cluster(2, 1.0, {"m": TINY})
    job = Job("j", "m", 0, 100, 10, 4, 10, 4)
    # lookup 1 s + 4 iterations of 1 s on one worker that was warmed for 2 s
    assert clairvoyant_bound([job], cluster, 0) * 3600 == pytest.approx(7.0)
    assert clairvoyant_bound([job], cluster, 1) == 0.0


def test_a_tight_deadline_needs_the_dearer_mix_and_an_impossible_one_is_none() -> None:
    model = ModelSpec("m", 1.0, 50.0, 0.0, {1: 1.0, 2: 0.75})
    loose = Job("a", "m", 0, 100, 8, 8, 8, 8)
    tight = Job("b", "m", 0, 7, 8, 8, 8, 8)
    hopeless = Job("c", "m", 0, 5, 8, 8, 8, 8)
    assert least_gpu_s(loose, model, 2) == pytest.approx(8.0)
    assert least_gpu_s(tight, model, 2) == pytest.approx(10.0, abs=0.01)
    assert least_gpu_s(tight, model, 1) is None
    assert least_gpu_s(hopeless, model, 2) is None
