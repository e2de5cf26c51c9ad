"""Tuning jobs and `jobs.csv`."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maitre.files import replacing_file
from maitre.scheduling.cluster import Cluster
from maitre.scheduling.errors import SchedulingError
from maitre.tables import LARGEST, LARGEST_SECONDS, read_table

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
    table = read_table(path, COLUMNS, error=SchedulingError)
    numbers = {
        name: table.numbers(
            name, at_least=0.0, at_most=LARGEST_SECONDS if name.endswith("_s") else LARGEST
        )
        for name in COLUMNS[2:]
    }
    late = numbers["deadline_s"] <= numbers["submitted_s"]
    if late.any():
        raise table.problem(int(np.argmax(late)), "deadline_s", "must be after submitted_s")
    texts = [table.texts(name) for name in COLUMNS[:2]]
    columns = [*texts, *(values.tolist() for values in numbers.values())]
    jobs = [Job(*values) for values in zip(*columns, strict=True)]
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
