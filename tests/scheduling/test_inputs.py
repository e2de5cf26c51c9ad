from pathlib import Path

import pytest

from maitre.scheduling import SchedulingError, read_cluster, read_events, read_jobs
from maitre.scheduling.jobs import COLUMNS, write_jobs

CLUSTER = """
gpus: 4
gpu_price_per_hour: 2
models:
  small: {warm_up_s: 10, lookup_s: 2, resize_s: 1, iteration_s: {1: 0.5, 2: 0.3}}
"""
HEADER = ",".join(COLUMNS)
GOOD = "a,small,0,100,10,5,11,6"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_cluster_is_read_with_models_under_a_key_or_at_the_top(tmp_path: Path) -> None:
    nested = read_cluster(write(tmp_path / "a.yaml", CLUSTER))
    flat = read_cluster(
        write(tmp_path / "b.yaml", CLUSTER.replace("models:\n", "").replace("  small", "small"))
    )
    assert nested == flat
    assert nested.models["small"].iteration_s == {1: 0.5, 2: 0.3}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("gpus: 4", "gpus: 0", "gpus"),
        ("gpus: 4", "", "gpus"),
        ("warm_up_s: 10", "warm_up_s: -1", "warm_up_s"),
        ("1: 0.5", "0: 0.5", "iteration_s"),
        ("1: 0.5", "1: 0", "iteration_s"),
        ("gpu_price_per_hour: 2", "gpu_price_per_hour: x", "gpu_price_per_hour"),
    ],
)
def test_bad_cluster_names_the_field(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(SchedulingError, match=message):
        read_cluster(write(tmp_path / "cluster.yaml", CLUSTER.replace(before, after)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\n", "holds no rows"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "twice"),
        (f"{HEADER}\n{GOOD.replace('small', 'huge')}\n", "'huge' is not in the cluster"),
        (f"{HEADER}\n{GOOD.replace('0,100', '100,50')}\n", ":2: deadline_s"),
        (f"{HEADER}\n{GOOD.replace('100', 'soon')}\n", "must be a number; got 'soon'"),
        (f"{HEADER}\n{GOOD.replace('10,5', '10,-5')}\n", ":2: iterations_bank"),
        (f"{HEADER}\na,small,0\n", ":2: has 3 fields"),
        (f"{HEADER.replace('deadline_s,', '')}\n", "column 'deadline_s' is missing"),
        (f"{HEADER}\n{GOOD.replace('100', 'nan')}\n", ":2: deadline_s"),
        (f"{HEADER}\n{GOOD.replace('100', '1e300')}\n", ":2: deadline_s: must be at most"),
        (f"{HEADER}\n{GOOD.replace('100', '9' * 5000)}\n", r":2: deadline_s.*5002 characters"),
        (f"{HEADER}\n{'a' * 140_000}{GOOD}\n", ":2: not CSV: a field has more than 131,072"),
    ],
)
def test_bad_jobs_name_the_line_and_the_field(tmp_path: Path, text: str, message: str) -> None:
    cluster = read_cluster(write(tmp_path / "cluster.yaml", CLUSTER))
    with pytest.raises(SchedulingError, match=message):
        read_jobs(write(tmp_path / "jobs.csv", text), cluster)


def test_jobs_survive_a_round_trip(tmp_path: Path) -> None:
    cluster = read_cluster(write(tmp_path / "cluster.yaml", CLUSTER))
    jobs = read_jobs(write(tmp_path / "jobs.csv", f"{HEADER}\n{GOOD}\n"), cluster)
    write_jobs(tmp_path / "again.csv", jobs)
    assert read_jobs(tmp_path / "again.csv", cluster) == jobs


@pytest.mark.parametrize(
    "text", ["a,b\n", "time_s,event,worker,job_id,base_model\n1,worker_dance,w1,,\n"]
)
def test_bad_events_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SchedulingError):
        list(read_events(write(tmp_path / "events.csv", text)))
