"""Latency, resumption and delivery of the warm workers, with the live system on this machine.

Each figure starts services of its own. Times are wall-clock times of one machine: workers stamp the
first steps of a run, this process stamps what goes before.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.report import Report, progress
from benchmarks.warm.reaches import all_figures
from benchmarks.warm.services import (
    EVAL_ROWS,
    SHORT_STEPS,
    Services,
    cluster_for,
    live_services,
    small_tasks,
    spread,
    until,
)
from benchmarks.warm.simulated import compare
from maitre.requests.request import OPEN_STATES, RequestState
from maitre.workers.launch.graphql import DagsterClient
from maitre.workers.running_services import with_running_services

KILL_EVERY_S = 60.0
CHAOS_AT_MOST_S = 660.0
"""What has not ended by then counts as lost; the report is printed all the same."""
CHAOS_GAP_S = 1.2
"""Mean seconds between requests; jobs of few rows and steps take about as long on two workers."""
GROUP_STEPS = 20
ONCE = ("PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED", "ASSET_MATERIALIZATION")


def warm(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Measure command line and sensor, stage by stage to the first step, on idle workers."""
    draws = random.Random(seed)
    stages: dict[str, list[float]] = {}
    for number in range(2 * count + 4):
        services.idle(2)
        by_command = number % 2 == 0
        task = tasks[number % len(tasks)]
        if by_command:
            begun_s = time.time()
            request = services.submit_by_command(task, max_iterations=SHORT_STEPS)
        else:
            # Anywhere in the daemon's loop of 5 s.
            time.sleep(draws.uniform(0.0, 5.0))
            begun_s = time.time()
            request = services.submit_row(task)
        marks = services.marks(services.run_of(request.request_id))
        if number < 4:
            # The first runs of each worker import what only a run needs.
            continue
        how = "command line" if by_command else "sensor alone"
        row_s = request.submitted_at.timestamp()
        seen = {
            f"{how}: its start -> row": row_s - begun_s,
            f"{how}: row -> claim": marks["claimed"] - row_s,
            "claim -> tuner entered": marks["tuning"] - marks["claimed"],
            "claim -> first step begins": marks["stepping"] - marks["claimed"],
            "claim -> first step done, start evaluated": marks["first_step"] - marks["claimed"],
            f"{how}: its start -> first step begins": marks["stepping"] - begun_s,
        }
        for stage, seconds in seen.items():
            stages.setdefault(stage, []).append(seconds)
        progress(", ".join(f"{stage} {seconds:.2f}" for stage, seconds in seen.items()))
    return {stage: spread(values) for stage, values in stages.items()}


def cold(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Measure the same without warm workers: a new process loads the model."""
    del seed
    since_row, since_launch = [], []
    for number in range(count):
        request = services.submit_row(tasks[number % len(tasks)])
        ended = services.ended(request.request_id)
        with services.instance() as instance:
            logs = instance.all_logs(ended.run_id or "")
        entered_s = next(e.timestamp for e in logs if "no lookup was asked for" in e.message)
        launched_s = next(
            e.timestamp
            for e in logs
            if e.dagster_event and e.dagster_event.event_type_value == "PIPELINE_STARTING"
        )
        since_row.append(entered_s - request.submitted_at.timestamp())
        since_launch.append(entered_s - launched_s)
        progress(
            f"cold: row -> tuner {since_row[-1]:.2f} s, launch -> tuner {since_launch[-1]:.2f} s"
        )
    return {
        "cold: launch -> tuner entered": spread(since_launch),
        "cold: row -> tuner entered": spread(since_row),
    }


def kill(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Kill a worker during a job; measure the time until another trains, and the lost steps."""
    draws = random.Random(seed)
    again, lost = [], []
    dagster = DagsterClient(with_running_services(services.settings).dagster_url)
    for number in range(count):
        services.idle(2)
        request = services.submit_row(tasks[number % len(tasks)], steps=200)
        run_id = services.run_of(request.request_id)
        at = draws.randint(11, 35)
        first = until(lambda r=run_id, i=at: services.holder(r, i), 120.0)
        assert first.view is not None
        assert first.view.claim is not None
        before = first.view.claim.iteration
        killed_s = time.time()
        services.kill(first.name)
        second = until(lambda r=run_id: services.holder(r), 120.0)
        assert second.view is not None
        assert second.view.claim is not None
        again.append(second.view.claim.marks["first_step"] - killed_s)
        lost.append(before + 1 - second.view.claim.iteration)
        progress(f"killed at step {before}: on after {again[-1]:.2f} s, {lost[-1]} steps lost")
        dagster.terminate(run_id)
        ended = services.ended(request.request_id)
        assert ended.state is RequestState.CANCELLED, ended
    return {
        "killed -> training again elsewhere": spread(again),
        "steps lost, at most (checkpoint every 10)": max(lost),
    }


def chaos(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Submit requests with random deadlines; kill workers repeatedly, cancel some requests."""
    draws = random.Random(seed)
    services.idle(2)
    started_s = last_kill_s = next_s = time.monotonic()
    kills, requests = 0, []
    while len(requests) < count or services.store.find(OPEN_STATES, limit=1):
        now_s = time.monotonic()
        if len(requests) < count and now_s >= next_s:
            steps, deadline_s = draws.randint(2, 6), draws.uniform(20.0, 300.0)
            request = services.submit_row(draws.choice(tasks), deadline_s, steps)
            requests.append(request.request_id)
            if draws.random() < 0.05:
                services.store.cancel(request.request_id, now=request.submitted_at)
            next_s = now_s + draws.expovariate(1 / CHAOS_GAP_S)
        if now_s - last_kill_s > KILL_EVERY_S:
            workers = services.pool.workers()
            if workers:
                services.kill(draws.choice(workers).name)
                kills += 1
            last_kill_s = now_s
        if now_s - started_s > CHAOS_AT_MOST_S:
            break
        time.sleep(0.2)
    wall_s = time.monotonic() - started_s
    return _fates(services, requests) | {"workers killed": kills, "wall_s": round(wall_s, 1)}


def _fates(services: Services, requests: list[str]) -> dict[str, Any]:
    """Return how the requests ended, by the queue and by the events of their runs."""
    states: Counter[str] = Counter()
    late = twice = without_reason = 0
    with services.instance() as instance:
        for request_id in requests:
            request = services.store.get(request_id)
            states[str(request.state)] += 1
            late += bool(request.finished_at and request.finished_at > request.deadline_at)
            without_reason += request.state is RequestState.FAILED and not request.message
            runs = instance.get_runs(dg.RunsFilter(tags={"maitre/request": request_id}))
            events = Counter(
                e.dagster_event.event_type_value
                for run in runs
                for e in instance.all_logs(run.run_id)
                if e.dagster_event and e.dagster_event.event_type_value in ONCE
            )
            twice += len(runs) > 1 or any(seen > 1 for seen in events.values())
    return {
        "requests": len(requests),
        "ended as": dict(states),
        "lost (never ended)": sum(n for s, n in states.items() if not RequestState(s).is_final),
        "run twice": twice,
        "failed without a reason": without_reason,
        "late": late,
    }


def group(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Measure the seconds of an iteration with one worker and with two."""
    del seed
    dagster = DagsterClient(with_running_services(services.settings).dagster_url)
    found: dict[str, list[float]] = {}
    for number in range(count):
        for size in (1, 2):
            names = [worker.name for worker in services.idle(2)][:size]
            request = services.submit_row(tasks[number % len(tasks)], steps=GROUP_STEPS, taken=True)
            marks = services.marks(dagster.launch(request, names, lookup=False))
            each_s = (marks["registering"] - marks["stepping"]) / GROUP_STEPS
            found.setdefault(f"iteration, {size} workers", []).append(each_s)
            progress(f"{size} workers: {each_s:.3f} s an iteration")
    return {name: spread(values) for name, values in found.items()}


# What measures it, with how many workers and requests, and on tasks of how few eval rows (0: all).
FIGURES = {
    "warm": (warm, 2, 20, 0),
    "cold": (cold, 0, 20, 0),
    "kill": (kill, 3, 20, EVAL_ROWS),
    "chaos": (chaos, 2, 200, 8),
    "group": (group, 2, 5, 0),
}
COMPARED = 50
"""Requests that go through the simulator and through the live system."""


def measured(name: str, model: Path, tasks: Path, count: int | None, seed: int) -> dict[str, Any]:
    """Measure one figure, with services of its own."""
    folder = Path(tempfile.mkdtemp(prefix="maitre-warm-"))
    if name == "simulated":
        return compare(folder, model, tasks, count or COMPARED, seed)
    measure, workers, full_count, eval_rows = FIGURES[name]
    own = small_tasks(tasks, folder / "tasks", eval_rows) if eval_rows else tasks
    names = sorted(path.name for path in own.iterdir() if path.is_dir())
    cluster = cluster_for(model, folder / "cluster.yaml")
    with live_services(folder, model, own, workers, MAITRE_CLUSTER=str(cluster)) as services:
        return measure(services, names, count or full_count, seed)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("figure", choices=[*FIGURES, "simulated"], nargs="+")
    parser.add_argument("--model", type=Path, default=Path(".maitre/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--count", type=int, help="how many requests (default: the full figure)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="note figures here; show those noted before")


def measure(options: argparse.Namespace) -> Report:
    model, tasks = options.model.resolve(), options.tasks.resolve()
    found: dict[str, Any] = {}
    if options.results and options.results.exists():
        found = json.loads(options.results.read_text())
    for name in options.figure:
        found[name] = measured(name, model, tasks, options.count, options.seed)
        if options.results:
            options.results.write_text(json.dumps(found, indent=2))
    return Report(all_figures(found), found)
