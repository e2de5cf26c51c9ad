"""What a warm worker holds after each of many runs.

`python -m benchmarks warm-memory --count 200 [--model …] [--tasks …] [--json OUT]`: one worker,
runs of one step on tasks of few rows, launched without webserver and daemon.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.warm_services import data_home_environment, small_tasks, until
from maitre.settings import Settings
from maitre.tracking.store import TrackingStore
from maitre.workers.launch.run_tags import BASE_MODEL_TAG
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.registry import WorkerRegistry


def measure(folder: Path, model: Path, tasks: Path, count: int) -> dict[str, Any]:
    """Resident memory of the worker, MB, and seconds of a run."""
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
            return _figures(_runs(instance, pool, settings, names, count))
    finally:
        pool.stop_all(timeout_s=5.0)


def _runs(
    instance: dg.DagsterInstance, pool: LocalPool, settings: Settings, tasks: list[str], count: int
) -> list[tuple[float, float]]:
    """After each run: memory of the worker in MB, and how long the run took."""
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
            print(f"after {number + 1} runs: {seen[-1][0]:.0f} MB", file=sys.stderr, flush=True)
    return seen


def _figures(seen: list[tuple[float, float]]) -> dict[str, Any]:
    memory_mb = [memory for memory, _ in seen]
    half = len(seen) // 2
    at = sorted({1, min(10, len(seen)), *(len(seen) * part // 5 for part in range(1, 6))} - {0})
    return {
        "runs": len(seen),
        "seconds a run": round(sum(seconds for _, seconds in seen) / len(seen), 2),
        "MB after so many runs": {number: round(memory_mb[number - 1], 1) for number in at},
        "MB a run, second half": round((memory_mb[-1] - memory_mb[half]) / (len(seen) - half), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(".maitre/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="maitre-warm-"))
    found = measure(folder, arguments.model.resolve(), arguments.tasks.resolve(), arguments.count)
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
