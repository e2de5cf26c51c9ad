"""Memory of a warm worker over many runs.

One worker, runs of one step on tasks of few rows, launched without webserver and daemon.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import dagster as dg

from benchmarks.report import Figure, Report, progress
from benchmarks.warm.services import data_home_environment, small_tasks, until
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.launch.run_tags import BASE_MODEL_TAG
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.registry import WorkerRegistry


def memory(folder: Path, model: Path, tasks: Path, count: int) -> list[tuple[float, float]]:
    """Return the worker's resident memory in MB and the seconds of the run, after each run."""
    own = small_tasks(tasks, folder / "tasks")
    environment = {**data_home_environment(folder, model, own), "MAITRE_WARM_POOL": "local"}
    os.environ.update(environment)
    settings = Settings.read()
    (folder / "dagster").mkdir()
    shutil.copy("dagster.yaml", folder / "dagster")
    TrackingStore(settings.mlflow_tracking_uri).client()
    pool = LocalPool.of(settings, expected=1)
    pool.grow(settings.base_model_name, 1, beside=0)
    names = sorted(path.name for path in own.iterdir())
    try:
        with dg.DagsterInstance.get() as instance:
            instance.event_log_storage.set_concurrency_slots("training", 1)
            instance.add_dynamic_partitions("tasks", names)
            return _runs(instance, pool, settings, names, count)
    finally:
        pool.stop_all(timeout_s=5.0)


def _runs(
    instance: dg.DagsterInstance, pool: LocalPool, settings: Settings, tasks: list[str], count: int
) -> list[tuple[float, float]]:
    from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository

    from pipelines import tuning

    repository = ReconstructableRepository.for_module("pipelines.tuning", "defs")
    origin = ReconstructableJob(repository, "tune").get_python_origin()
    job = tuning.defs().resolve_job_def("tune")
    config = {"lookup": False, "max_iterations": 1}
    seen = []
    for number in range(count):
        until(lambda: any(worker.is_idle for worker in pool.workers()), 120.0)
        began_s = time.monotonic()
        run = instance.create_run_for_job(
            job,
            run_config={"ops": {"tuned_prompts": {"config": config}}},
            tags={
                BASE_MODEL_TAG: settings.base_model_name,
                "dagster/partition": tasks[number % len(tasks)],
            },
            job_code_origin=origin,
        )
        instance.launch_run(run.run_id, None)
        time.sleep(1.0)
        until(lambda: any(worker.is_idle for worker in pool.workers()), 120.0)
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.is_success, ended.status
        [worker] = WorkerRegistry(settings.home).workers()
        pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
        seen.append((pages * 4096 / 1e6, time.monotonic() - began_s))
        if number % 10 == 9:
            progress(f"after {number + 1} runs: {seen[-1][0]:.0f} MB")
    return seen


def _figures(seen: list[tuple[float, float]]) -> list[Figure]:
    memory_mb = [resident_mb for resident_mb, _ in seen]
    half = len(seen) // 2
    at = sorted({1, min(10, len(seen)), *(len(seen) * part // 5 for part in range(1, 6))} - {0})
    growth_mb = (memory_mb[-1] - memory_mb[half]) / (len(seen) - half)
    return [
        Figure("runs", len(seen)),
        Figure("one run, mean", round(sum(seconds for _, seconds in seen) / len(seen), 2), "s"),
        *(Figure(f"memory after {n} runs", round(memory_mb[n - 1], 1), "MB") for n in at),
        Figure("growth per run, second half", round(growth_mb, 3), "MB"),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=Path(".maitre/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--count", type=int, default=200)


def measure(options: argparse.Namespace) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="maitre-warm-"))
    seen = memory(folder, options.model.resolve(), options.tasks.resolve(), options.count)
    return Report(_figures(seen), {"memory_mb": [resident_mb for resident_mb, _ in seen]})
