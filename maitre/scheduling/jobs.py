"""Tuning jobs and `jobs.csv`."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maitre.errors import reading
from maitre.files import replacing_file
from maitre.scheduling.cluster import Cluster
from maitre.scheduling.errors import SchedulingError

COLUMNS = (
    "job_id",
    "base_model",
    "submitted_s",
    "deadline_s",
    "iterations_cold",
    "iterations_bank",
    "iterations_cold_estimate",
    "iterations_bank_estimate",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One tuning job. A policy sees the estimates; only the simulator sees the true counts."""

    job_id: str
    base_model: str
    submitted_s: float
    deadline_s: float
    iterations_cold: float
    iterations_bank: float
    iterations_cold_estimate: float
    iterations_bank_estimate: float


def read_jobs(path: Path, cluster: Cluster) -> tuple[Job, ...]:
    """Read `jobs.csv`, in order of submission (ties keep the order of the file).

    Raises `SchedulingError` naming line and field: missing column, text where a number belongs, a
    deadline not after submission, an unknown base model, a `job_id` twice, no jobs at all.
    """
    with reading(path, SchedulingError), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise SchedulingError(f"{path}: missing column {', '.join(missing)}")
        jobs = [_job(row, f"{path}:{reader.line_num}") for row in reader]
    check_jobs(jobs, cluster, str(path))
    return tuple(sorted(jobs, key=lambda job: job.submitted_s))


def check_jobs(jobs: Sequence[Job], cluster: Cluster, where: str) -> None:
    """Raise `SchedulingError` for no jobs, a `job_id` twice or a model the cluster lacks."""
    if not jobs:
        raise SchedulingError(f"{where}: no jobs")
    seen: set[str] = set()
    for job in jobs:
        if job.job_id in seen:
            raise SchedulingError(f"{where}: job {job.job_id}: job_id stands twice")
        seen.add(job.job_id)
        if job.base_model not in cluster.models:
            known = ", ".join(cluster.models)
            raise SchedulingError(
                f"{where}: job {job.job_id}: base_model {job.base_model!r} is not in the cluster "
                f"(it has {known})"
            )
        model = cluster.models[job.base_model]
        if model.worker_counts[0] > cluster.gpus:
            raise SchedulingError(
                f"{where}: job {job.job_id}: {job.base_model} needs at least "
                f"{model.worker_counts[0]} workers; the cluster has {cluster.gpus} GPUs"
            )


def _job(row: dict[str, str], where: str) -> Job:
    if None in row or any(row[name] is None for name in COLUMNS):
        raise SchedulingError(f"{where}: expected {len(COLUMNS)} fields")
    numbers = {name: _number(row[name], name, where) for name in COLUMNS[2:]}
    if not row["job_id"].strip():
        raise SchedulingError(f"{where}: job_id: empty")
    if numbers["submitted_s"] < 0:
        raise SchedulingError(f"{where}: submitted_s: {row['submitted_s']}: negative")
    if numbers["deadline_s"] <= numbers["submitted_s"]:
        raise SchedulingError(
            f"{where}: deadline_s: {row['deadline_s']} is not after submitted_s "
            f"{row['submitted_s']}"
        )
    for name in COLUMNS[4:]:
        if numbers[name] < 0:
            raise SchedulingError(f"{where}: {name}: {row[name]}: negative")
    return Job(row["job_id"].strip(), row["base_model"].strip(), **numbers)


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise SchedulingError(f"{where}: {name}: {text!r} is not a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise SchedulingError(f"{where}: {name}: {text!r} is not a finite number")
    return value


def write_jobs(path: Path, jobs: Iterable[Job]) -> None:
    """Write `jobs.csv`, whole or not at all."""
    with (
        replacing_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(tuple(_text(getattr(job, name)) for name in COLUMNS) for job in jobs)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6f}".rstrip("0").rstrip(".")
