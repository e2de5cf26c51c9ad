"""Every policy's files against a second, independent reading of the contract."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from maitre.scheduling import (
    POLICIES,
    named_policy,
    read_cluster,
    read_events,
    read_jobs,
    replay,
    simulate,
    write_events,
    write_jobs,
)
from maitre.scheduling.workload import WorkloadOptions, generate
from tests.scheduling.contract_checker import check

CLUSTER = {
    "gpus": 12,
    "gpu_price_per_hour": 2.0,
    "failures_per_worker_hour": 0.0,
    "models": {
        "small": {
            "warm_up_s": 12,
            "lookup_s": 4.003,
            "resize_s": 1,
            "iteration_s": {1: 0.12, 2: 0.07, 4: 0.09},
        },
        "large": {
            "warm_up_s": 70.5,
            "lookup_s": 15,
            "resize_s": 4,
            "iteration_s": {2: 0.8, 4: 0.42, 8: 0.5},
        },
    },
}


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("failures", [0.0, 3.0])
def test_the_written_log_keeps_the_contract(tmp_path: Path, policy: str, failures: float) -> None:
    files = [tmp_path / name for name in ("events.csv", "jobs.csv", "cluster.yaml")]
    document = {**CLUSTER, "failures_per_worker_hour": failures}
    files[2].write_text(yaml.safe_dump(document), encoding="utf-8")
    cluster = read_cluster(files[2])
    generator = np.random.default_rng(3)
    arrivals = np.cumsum(generator.exponential(10.0, 80) * generator.choice([0.01, 4.0], 80))
    write_jobs(files[1], generate(arrivals, cluster, WorkloadOptions(load=0.6), 1))
    jobs = read_jobs(files[1], cluster)
    run = simulate(jobs, cluster, named_policy(policy), seed=2)
    write_events(files[0], run.events)
    violations, gpu_hours = check(*files)
    assert violations == run.outcome.violations
    assert gpu_hours == pytest.approx(run.outcome.gpu_hours)
    seen = replay(read_events(files[0]), jobs, cluster)
    assert seen.problems == []
    assert (seen.violations, seen.gpu_hours) == (violations, pytest.approx(gpu_hours))


@pytest.mark.parametrize(
    ("kind", "shift_ms"), [("lookup_end", 50), ("worker_ready", -50), ("job_finish", -50)]
)
def test_both_checkers_find_a_time_that_is_wrong(tmp_path: Path, kind: str, shift_ms: int) -> None:
    files = [tmp_path / name for name in ("events.csv", "jobs.csv", "cluster.yaml")]
    files[2].write_text(yaml.safe_dump(CLUSTER), encoding="utf-8")
    cluster = read_cluster(files[2])
    jobs = generate(np.asarray([0.0, 500.0, 5000.0]), cluster, WorkloadOptions(load=0.05), 0)
    write_jobs(files[1], jobs)
    events = list(simulate(jobs, cluster, named_policy("maitre")).events)
    at = next(index for index, event in enumerate(events) if event.kind == kind)
    events[at] = events[at]._replace(time_ms=events[at].time_ms + shift_ms)
    events.sort(key=lambda event: event.time_ms)
    write_events(files[0], events)
    assert replay(events, jobs, cluster).problems
    with pytest.raises((AssertionError, KeyError)):
        check(*files)
