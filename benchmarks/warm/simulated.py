"""The same requests through the live system and through the simulator: violations and cost.

A figure of `benchmarks.warm.start` (`simulated`). A few requests before measure what the simulator
gets: seconds to load, per step, and per run beside its steps. The live cost is the time that
worker processes were there, looked at five times a second.
"""

import os
import random
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from benchmarks.warm.services import Services, live_services, small_tasks, until
from maitre.requests.request import OPEN_STATES, TuningRequest
from maitre.scheduling.cluster import read_cluster
from maitre.scheduling.jobs import Job
from maitre.scheduling.policies import named_policy
from maitre.scheduling.simulator import simulate

GPUS = 2
TO_MEASURE = 14
WORKLOADS = {"one worker nearly does": (5.0, (15.0, 75.0)), "two hardly do": (3.0, (8.0, 40.0))}
"""Mean seconds between requests; tightest and loosest deadline, seconds."""


@dataclass(frozen=True)
class Asked:
    """A request of the workload: when, by when (s after the first), how many steps."""

    at_s: float
    within_s: float
    steps: int


def workload(count: int, seed: int, mean_s: float, within_s: tuple[float, float]) -> list[Asked]:
    """Return a workload: exponential gaps, 4 to 16 steps, deadlines from tight to loose."""
    draws = random.Random(seed)
    at_s, asked = 0.0, []
    for _ in range(count):
        asked.append(Asked(at_s, draws.uniform(*within_s), draws.randint(4, 16)))
        at_s += draws.expovariate(1 / mean_s)
    return asked


def measure(services: Services, tasks: list[str]) -> dict[str, float]:
    """Return the simulator's inputs, each measured as it happens in the live part.

    Seconds until a worker is ready, of one that starts alone and of one beside a worker that works;
    and, with a queue before both, from claim to claim of a worker: so much a step, and so much
    beside them, the scheduler's part included.
    """
    services.pool.stop_all()
    alone_s = _ready_s(services, beside=0)
    busy = [services.submit_row(task, steps=12) for task in tasks[:3]]
    beside_s = _ready_s(services, beside=1)
    for request in busy:
        services.ended(request.request_id)
    steps = {}
    for number in range(TO_MEASURE):
        count = 4 + 12 * (number % 2)
        request = services.submit_row(tasks[number % len(tasks)], steps=count)
        steps[request.request_id] = count
    claims = _claims(services, list(steps))
    worked: dict[str, list[tuple[float, int]]] = {}
    for request_id, (worker, claimed_s) in claims.items():
        worked.setdefault(worker, []).append((claimed_s, steps[request_id]))
    took = [
        (count, following_s - claimed_s)
        for claimed in worked.values()
        for (claimed_s, count), (following_s, _) in pairwise(sorted(claimed))
    ]
    each_s, rest_s = statistics.linear_regression(*zip(*took, strict=True))
    return {
        "ready alone_s": round(alone_s, 2),
        "ready beside another_s": round(beside_s, 2),
        "warm_up_s": round((alone_s + beside_s) / 2, 2),
        "iteration_s": round(each_s, 3),
        "beside_s": round(rest_s, 2),
        "runs": len(took),
    }


def _ready_s(services: Services, beside: int) -> float:
    """Return seconds from the start of a worker's process until it takes claims."""
    begun_s = time.time()
    known = {worker.name for worker in services.pool.workers()}
    with patch.dict(os.environ, services.environment):
        services.pool.grow(services.settings.base_model_name, 1, beside)

    def look() -> float | None:
        for worker in services.pool.workers():
            if worker.name not in known and worker.view and worker.view.state != "loading":
                return time.time()
        return None

    return until(look, 180.0) - begun_s


def _claims(services: Services, requests: list[str]) -> dict[str, tuple[str, float]]:
    """Return which worker claimed each request and when, seen while they are worked off."""
    seen: dict[str, tuple[str, float]] = {}
    while services.store.find(OPEN_STATES, limit=1):
        for worker in services.pool.workers():
            claim = worker.view.claim if worker.view else None
            if claim is not None and "claimed" in claim.marks:
                seen[claim.run_id] = worker.name, claim.marks["claimed"]
        time.sleep(0.2)
    runs = {services.store.get(request_id).run_id: request_id for request_id in requests}
    return {runs[run_id]: claimed for run_id, claimed in seen.items() if run_id in runs}


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
                base_model=services.settings.base_model_name,
                lookup=False,
                max_iterations=one.steps,
                iterations_cold=one.steps + beside,
                iterations_bank=one.steps + beside,
            )
            requests.append(request.request_id)
        for worker in services.pool.workers():
            held.setdefault(worker.name, [time.time()]).append(time.time())
        if len(requests) == len(asked) and not services.store.find(OPEN_STATES, limit=1):
            break
        time.sleep(0.2)
    ended = [services.store.get(request_id) for request_id in requests]
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
        "held": {name: _since(started_s, seen[0], seen[-1]) for name, seen in held.items()},
        "jobs": {f"j{i}": _lived(services, r, started_s) for i, r in enumerate(ended)},
    }


def _since(started_s: float, *moments_s: float) -> list[float]:
    return [round(moment_s - started_s, 2) for moment_s in moments_s]


def _lived(services: Services, request: TuningRequest, started_s: float) -> dict[str, Any]:
    """Return when the request came, ran, ended and was due, in s after the first."""
    began_s = started_s
    with services.instance() as instance:
        record = instance.get_run_record_by_id(request.run_id or "")
        if record is not None and record.start_time is not None:
            began_s = record.start_time
    ends = [request.finished_at or request.deadline_at, request.deadline_at]
    came_s = request.submitted_at.timestamp()
    moments_s = _since(started_s, came_s, began_s, *(moment.timestamp() for moment in ends))
    return dict(zip(("came", "began", "ended", "due"), moments_s, strict=True)) | {
        "state": str(request.state)
    }


def simulated(cluster: Path, model: str, asked: list[Asked], beside: float) -> dict[str, Any]:
    """Run the workload in the simulator, with the same policy."""
    jobs = [
        Job(f"j{i}", model, a.at_s, a.at_s + a.within_s, *[a.steps + beside] * 4)
        for i, a in enumerate(asked)
    ]
    simulation = simulate(jobs, read_cluster(cluster), named_policy("maitre"))
    outcome = simulation.outcome
    return {
        "violations": outcome.violations,
        "worker_s": round(outcome.gpu_hours * 3600, 1),
        "workers started": outcome.worker_starts,
        "wall_s": round(outcome.makespan_s, 1),
        "events": [f"{e.time_ms / 1000} {e.kind} {e.worker} {e.job_id}" for e in simulation.events],
    }


def compare(folder: Path, model: Path, tasks: Path, count: int, seed: int) -> dict[str, Any]:
    """Run each workload both ways, after the simulator's inputs have been measured."""
    own = small_tasks(tasks, folder / "tasks")
    names = sorted(path.name for path in own.iterdir())
    cluster = folder / "cluster.yaml"

    def services(name: str) -> AbstractContextManager[Services]:
        return live_services(folder / name, model, own, GPUS, keep=0, MAITRE_CLUSTER=str(cluster))

    _write_cluster(cluster, model.name, warm_up_s=10.0, iteration_s=0.5)
    with services("before") as live_system:
        inputs = measure(live_system, names)
    _write_cluster(cluster, model.name, inputs["warm_up_s"], inputs["iteration_s"])
    beside = inputs["beside_s"] / inputs["iteration_s"]
    found: dict[str, Any] = {"measured before": inputs}
    for number, (name, (mean_s, within_s)) in enumerate(WORKLOADS.items()):
        asked = workload(count, seed, mean_s, within_s)
        # Others than before: what those have learned of earlier requests, the simulator has not.
        with services(f"live{number}") as live_system:
            live_system.pool.stop_all()
            lived = live(live_system, names, asked, beside)
        found[name] = {
            "requests": count,
            "mean gap_s": mean_s,
            "within_s": list(within_s),
            "live": lived,
            "simulated": simulated(cluster, model.name, asked, beside),
        }
    return found


def _write_cluster(path: Path, model: str, warm_up_s: float, iteration_s: float) -> None:
    speeds = {"warm_up_s": warm_up_s, "lookup_s": 3.0, "resize_s": 1.0}
    models = {model: {**speeds, "iteration_s": {1: iteration_s}}}
    path.write_text(yaml.safe_dump({"gpus": GPUS, "gpu_price_per_hour": 1, "models": models}))
