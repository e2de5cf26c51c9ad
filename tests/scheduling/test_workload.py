from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.scheduling import Cluster, ModelSpec, SchedulingError
from maitre.scheduling.policies.overload import jobs_to_drop
from maitre.scheduling.workload import (
    ItaDistribution,
    WorkloadOptions,
    generate,
    least_gpu_s,
    read_arrivals,
    read_ita,
    window,
)

CLUSTER = Cluster(
    8,
    1.0,
    {
        "a": ModelSpec("a", 10.0, 2.0, 1.0, {1: 0.2, 2: 0.12}),
        "b": ModelSpec("b", 30.0, 5.0, 1.0, {2: 0.5}),
    },
)


@given(load=st.sampled_from([0.1, 0.5]), seed=st.integers(0, 5), count=st.integers(2, 60))
@settings(max_examples=20, deadline=None)
def test_load_is_what_was_asked_and_jobs_are_reproducible(
    load: float, seed: int, count: int
) -> None:
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(100.0, count))
    jobs = generate(arrivals, CLUSTER, WorkloadOptions(load=load), seed)
    assert jobs == generate(arrivals, CLUSTER, WorkloadOptions(load=load), seed)
    work = sum(
        least_gpu_s(CLUSTER.models[job.base_model], job.iterations_cold, job.iterations_bank)
        for job in jobs
    )
    assert work / (CLUSTER.gpus * jobs[-1].submitted_s) == pytest.approx(load, rel=1e-2)
    assert all(job.deadline_s > job.submitted_s for job in jobs)


def test_measured_pairs_are_drawn_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "ita.csv"
    path.write_text("iterations_cold,iterations_bank\n100,40\n900,300\n", encoding="utf-8")
    cold, bank = read_ita(path).draw(np.random.default_rng(0), 50)
    assert set(zip(cold, bank, strict=True)) == {(100.0, 40.0), (900.0, 300.0)}


def test_bad_inputs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("when\n1\n", encoding="utf-8")
    with pytest.raises(SchedulingError, match="submission_time"):
        read_arrivals(path)
    for content, message in (
        ("submission_time\n1\nnan\n3\n", ":3: submission_time: must be a finite number"),
        ("submission_time\n1\n1e300\n", ":3: submission_time: must be at most"),
        ("submission_time\n2024-01-01 10:00:00\n5\n", ":3: submission_time: must be a date"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(SchedulingError, match=message):
            read_arrivals(path)
    with pytest.raises(SchedulingError, match=r"--columns: expected submission_time=NAME"):
        read_arrivals(path, {"when": "x"})
    with pytest.raises(SchedulingError, match="column 'created' is missing"):
        read_arrivals(path, {"submission_time": "created"})
    path.write_text("iterations_cold,iterations_bank\n100,inf\n", encoding="utf-8")
    with pytest.raises(SchedulingError, match=":2: iterations_bank: must be a finite number"):
        read_ita(path)
    with pytest.raises(SchedulingError, match="arrivals"):
        window(np.asarray([0.0, 1.0]), 5.0, 1.0)
    path.write_text("iterations_cold,iterations_bank\n100,0\n", encoding="utf-8")
    with pytest.raises(SchedulingError, match=":2"):
        read_ita(path)
    with pytest.raises(SchedulingError, match="load"):
        generate(np.asarray([0.0, 1.0]), CLUSTER, WorkloadOptions(load=0.0), 0)


def test_dates_and_other_column_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("created,id\n2024-01-01 10:00:05,b\n2024-01-01 10:00:00,a\n")
    found = read_arrivals(path, {"submission_time": "created"})
    assert (found - found[0]).tolist() == [0.0, 5.0]
    path.write_text("submitted_s\n7\n1\n")
    assert read_arrivals(path).tolist() == [1.0, 7.0]


@pytest.mark.shared
def test_shared_traces_make_workloads(shared_data: Path) -> None:
    arrivals = read_arrivals(shared_data / "tuning-job-traces" / "itp-cluster02.csv")
    jobs = generate(window(arrivals, 7, 1.0), CLUSTER, WorkloadOptions(), 0)
    assert len(jobs) > 100


def test_log_normal_sizes_have_the_asked_median() -> None:
    cold, bank = ItaDistribution().draw(np.random.default_rng(0), 4000)
    assert np.median(cold) == pytest.approx(400, rel=0.1)
    assert np.median(bank / cold) == pytest.approx(0.4, rel=0.1)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 30)), max_size=8),
    st.integers(1, 3),
)
def test_dropping_leaves_a_feasible_set_and_drops_nothing_without_need(
    jobs: list[tuple[int, int]], workers: int
) -> None:
    demand = [(float(d), f"j{i}", float(g)) for i, (d, g) in enumerate(jobs)]
    dropped = jobs_to_drop(demand, [0.0] * workers, 1.0)
    kept = sorted(entry for entry in demand if entry[1] not in dropped)
    done = 0.0
    for deadline_s, _, gpu_s in kept:
        done += gpu_s
        assert done <= workers * deadline_s
    if all(
        sum(g for d, _, g in demand if d <= deadline) <= workers * deadline
        for deadline, _, _ in demand
    ):
        assert not dropped


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SchedulingError, match="seed: -1: expected 0 or more"):
        generate(np.asarray([0.0, 10.0]), CLUSTER, WorkloadOptions(), -1)
