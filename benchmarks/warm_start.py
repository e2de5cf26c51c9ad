"""Figures of the warm workers, with the live system on this machine.

`python -m benchmarks.warm_start FIGURE … --model FOLDER --tasks FOLDER [--json OUT]`; each figure
starts services of its own. Wall-clock times of one machine: workers stamp the first steps of a run,
this process stamps what goes before.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.warm_services import SHORT_STEPS, Services, live_services, spread, until
from resources.request_queue.request import RequestState

ONCE = ("PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED", "ASSET_MATERIALIZATION")


def warm(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Claim, command line and sensor, each to the first tuning step, on idle workers."""
    del seed
    services.idle(2)
    from_command: dict[str, list[float]] = {"process": [], "row": []}
    from_row: list[float] = []
    from_claim: dict[str, list[float]] = {"tuning": [], "stepping": [], "first_step": []}
    memory: list[float] = []
    for number in range(2 * count + 4):
        services.idle(2)
        task = tasks[number % len(tasks)]
        by_command = number % 2 == 0
        started_s = time.time()
        if by_command:
            request = services.submit_by_command(task, max_iterations=SHORT_STEPS)
        else:
            request = services.submit_row(task)
        run_id = services.run_of(request.request_id)
        marks = services.marks(run_id)
        if number < 4:
            # The first runs of each worker import what only a run needs.
            continue
        for mark, values in from_claim.items():
            values.append(marks[mark] - marks["claimed"])
        since_row_s = marks["stepping"] - request.submitted_at.timestamp()
        how = "command" if by_command else "sensor"
        since_claim_s = from_claim["stepping"][-1]
        _tell(f"{how}: row -> step {since_row_s:.2f} s, of it claim -> step {since_claim_s:.2f} s")
        if by_command:
            from_command["process"].append(marks["stepping"] - started_s)
            from_command["row"].append(since_row_s)
        else:
            from_row.append(since_row_s)
        memory.append(_resident_mb(services))
    return {
        "claim -> tuner entered": spread(from_claim["tuning"]),
        "claim -> first tuning step begins": spread(from_claim["stepping"]),
        "claim -> first tuning step done": spread(from_claim["first_step"]),
        "command line, from its start -> first step begins": spread(from_command["process"]),
        "command line, from the row -> first step begins": spread(from_command["row"]),
        "sensor alone, from the row -> first step begins": spread(from_row),
        "memory of the workers, MB: first, last": [round(memory[0], 1), round(memory[-1], 1)],
    }


def cold(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """The same without warm workers: the sensor finds the row, a new process loads the model."""
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
        _tell(f"cold: row -> tuner {since_row[-1]:.2f} s, launch -> tuner {since_launch[-1]:.2f} s")
    return {
        "cold: launch -> tuner entered": spread(since_launch),
        "cold: row -> tuner entered": spread(since_row),
    }


def kill(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """A worker killed with -9 in mid-job: until another trains, and the steps that were lost."""
    draws = random.Random(seed)
    again, lost = [], []
    for number in range(count):
        services.idle(2)
        request = services.submit_row(tasks[number % len(tasks)], steps=60)
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
        _tell(f"killed at step {before}: on after {again[-1]:.2f} s, {lost[-1]} steps lost")
        ended = services.ended(request.request_id)
        assert ended.state is RequestState.DONE, ended
    return {
        "killed -> training again elsewhere": spread(again),
        "steps lost, at most (checkpoint every 10)": max(lost),
    }


def chaos(services: Services, tasks: list[str], count: int, seed: int) -> dict[str, Any]:
    """Requests with random deadlines; a worker killed every minute, some requests cancelled."""
    draws = random.Random(seed)
    services.idle(2)
    started_s = last_kill_s = time.monotonic()
    kills, waiting, requests = 0, count, []
    next_s = started_s
    while waiting or any(not services.store.get(r).state.is_final for r in requests):
        now_s = time.monotonic()
        if waiting and now_s >= next_s:
            waiting -= 1
            steps, deadline_s = draws.randint(2, 16), draws.uniform(20.0, 300.0)
            request = services.submit_row(draws.choice(tasks), deadline_s, steps)
            requests.append(request.request_id)
            if draws.random() < 0.05:
                services.store.cancel(request.request_id, now=request.submitted_at)
            next_s = now_s + draws.expovariate(1 / 3.0)
        if now_s - last_kill_s > 60.0:
            workers = services.pool.workers()
            if workers:
                services.kill(draws.choice(workers).name)
                kills += 1
            last_kill_s = now_s
        if now_s - started_s > 3600.0:
            break
        time.sleep(0.2)
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
        "workers killed": kills,
        "wall_s": round(time.monotonic() - started_s, 1),
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _resident_mb(services: Services) -> float:
    from resources.warm_pool.registry import WorkerRegistry

    total = 0
    for worker in WorkerRegistry(services.settings.home).workers():
        pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
        total += pages * 4096
    return total / 1e6


FIGURES = {
    "warm": (warm, 2, 20),
    "cold": (cold, 0, 20),
    "kill": (kill, 2, 20),
    "chaos": (chaos, 2, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=FIGURES, nargs="+")
    parser.add_argument("--model", type=Path, default=Path(".maitre/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=Path, default=Path(".maitre/tasks"))
    parser.add_argument("--count", type=int, help="how many requests (default: the full figure)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    tasks = sorted(path.name for path in arguments.tasks.iterdir() if path.is_dir())
    figures: dict[str, Any] = {}
    for name in arguments.figure:
        measure, workers, count = FIGURES[name]
        folder = Path(tempfile.mkdtemp(prefix="maitre-warm-"))
        with live_services(
            folder, arguments.model.resolve(), arguments.tasks.resolve(), workers
        ) as services:
            figures[name] = measure(services, tasks, arguments.count or count, arguments.seed)
        print(json.dumps({name: figures[name]}, indent=2), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
