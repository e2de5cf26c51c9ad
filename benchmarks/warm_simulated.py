"""The same requests through the live system and through the simulator: violations and cost.

`python -m benchmarks.warm_simulated --count 50 [--model …] [--tasks …]`. A few requests before
measure what the simulator is told: seconds to load, per step, and per run beside its steps.
The live cost is the time that worker processes were there, looked at twice a second.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from benchmarks.warm_services import Services, live_services, small_tasks
from maitre.scheduling.cluster import read_cluster
from maitre.scheduling.jobs import Job
from maitre.scheduling.policies import named_policy
from maitre.scheduling.simulator import simulate

GPUS = 2
TO_MEASURE = 6


@dataclass(frozen=True)
class Asked:
    """A request of the workload: when, by when (s after the first), how many steps."""

    at_s: float
    within_s: float
    steps: int


def workload(count: int, seed: int, mean_s: float) -> list[Asked]:
    """Exponential gaps, 4 to 16 steps, deadlines from tight to loose."""
    draws = random.Random(seed)
    at_s, asked = 0.0, []
    for _ in range(count):
        asked.append(Asked(at_s, draws.uniform(20.0, 90.0), draws.randint(4, 16)))
        at_s += draws.expovariate(1 / mean_s)
    return asked


def measure(services: Services, tasks: list[str]) -> dict[str, float]:
    """What a worker needs to load, for a step, and for a run beside its steps."""
    idle = services.idle(GPUS)
    load_s = statistics.median(w.view.load_s["total"] for w in idle if w.view)
    step_s, beside_s = [], []
    for number in range(TO_MEASURE):
        steps = 12
        request = services.submit_row(tasks[number % len(tasks)], steps=steps)
        run_id = services.run_of(request.request_id)
        marks = services.marks(run_id)
        ended = services.ended(request.request_id)
        assert ended.finished_at is not None
        with services.instance() as instance:
            record = instance.get_run_record_by_id(run_id)
        assert record is not None
        assert record.end_time is not None
        tuning_s = marks["registering"] - marks["tuning"]
        step_s.append(tuning_s / steps)
        beside_s.append(record.end_time - marks["claimed"] - tuning_s)
    return {
        "warm_up_s": round(load_s, 2),
        "iteration_s": round(statistics.median(step_s), 3),
        "beside_s": round(statistics.median(beside_s), 2),
    }


def live(services: Services, tasks: list[str], asked: list[Asked], beside: float) -> dict[str, Any]:
    """Send the workload in real time; violations and worker seconds."""
    started_s = time.time()
    held: dict[str, list[float]] = {}
    requests: list[str] = []
    while True:
        now_s = time.time() - started_s
        while len(requests) < len(asked) and asked[len(requests)].at_s <= now_s:
            one = asked[len(requests)]
            now = datetime.now(UTC)
            request = services.store.submit(
                tasks[len(requests) % len(tasks)],
                deadline_at=now + timedelta(seconds=one.within_s),
                now=now,
                base_model=services.settings.pool,
                lookup=False,
                max_iterations=one.steps,
                iterations_cold=one.steps + beside,
                iterations_bank=one.steps + beside,
            )
            requests.append(request.request_id)
        for worker in services.pool.workers():
            held.setdefault(worker.name, [time.time()]).append(time.time())
        ended = [services.store.get(request_id) for request_id in requests]
        if len(requests) == len(asked) and all(request.state.is_final for request in ended):
            break
        time.sleep(0.5)
    # Until the last job is done, as in the simulator.
    late = sum(
        r.state.value != "done" or (r.finished_at or r.deadline_at) > r.deadline_at for r in ended
    )
    seconds = sum(seen[-1] - seen[0] for seen in held.values())
    return {
        "violations": late,
        "worker_s": round(seconds, 1),
        "workers started": len(held),
        "wall_s": round(time.time() - started_s, 1),
    }


def simulated(cluster: Path, model: str, asked: list[Asked], beside: float) -> dict[str, Any]:
    """The workload in the simulator, with the same policy."""
    jobs = [
        Job(f"j{i}", model, a.at_s, a.at_s + a.within_s, *[a.steps + beside] * 4)
        for i, a in enumerate(asked)
    ]
    outcome = simulate(jobs, read_cluster(cluster), named_policy("maitre")).outcome
    return {
        "violations": outcome.violations,
        "worker_s": round(outcome.gpu_hours * 3600, 1),
        "workers started": outcome.worker_starts,
        "wall_s": round(outcome.makespan_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(".maitre/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--mean-s", type=float, default=4.0, help="mean gap between requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="maitre-warm-"))
    own = small_tasks(arguments.tasks.resolve(), folder / "tasks")
    tasks = sorted(path.name for path in own.iterdir())
    cluster = folder / "cluster.yaml"
    model = arguments.model.resolve()
    told: dict[str, Any] = {"warm_up_s": 10.0, "lookup_s": 0.0, "resize_s": 1.0}

    def tell(iteration_s: float) -> None:
        models = {model.name: {**told, "iteration_s": {1: iteration_s}}}
        cluster.write_text(
            yaml.safe_dump({"gpus": GPUS, "gpu_price_per_hour": 1, "models": models})
        )

    tell(0.5)
    with live_services(folder, model, own, GPUS, keep=0, MAITRE_CLUSTER=str(cluster)) as services:
        seen = measure(services, tasks)
        told["warm_up_s"] = seen["warm_up_s"]
        tell(seen["iteration_s"])
        beside = seen["beside_s"] / seen["iteration_s"]
        asked = workload(arguments.count, arguments.seed, arguments.mean_s)
        services.pool.stop_all()
        found = {
            "measured before": seen,
            "requests": len(asked),
            "live": live(services, tasks, asked, beside),
            "simulated": simulated(cluster, model.name, asked, beside),
        }
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
