"""One tuning request through the queue, Dagster's daemon and the sensor, to its result."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from rich.console import Console

from assets.tuning.tuned_prompts import tuned_prompts
from maitre.processes.child import ChildProcess
from maitre.processes.environment import child_environment
from maitre.requests import RequestState, TuningRequest
from maitre.settings import Settings
from pipelines.walkthrough.staleness import why_stale
from resources.request_queue import RequestQueue

DEADLINE = "10m"


def tune_through_the_queue(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, settings: Settings, console: Console
) -> None:
    """Queue the last held-back task as `maitre tune` does, and let Dagster's daemon serve it.

    Do nothing when that task's prompt is up to date. Exit with 1 when the request is not done by
    its deadline.
    """
    if not settings.held_back:
        return
    task = settings.held_back[-1]
    if why_stale(instance, graph, tuned_prompts.key, task) is None:
        console.print(f"[green]●[/green] tuning_scheduler {task}: up to date")
        return
    command = ["tune", task, "--deadline", DEADLINE]
    console.print(f"[yellow]●[/yellow] [bold]tuning_scheduler[/bold]: maitre {' '.join(command)}")
    answer = subprocess.run(
        [sys.executable, "-m", "maitre.cli", *command, "--json"], check=True, capture_output=True
    )
    queue = RequestQueue(url=settings.request_queue_url)
    request = queue.get(json.loads(answer.stdout)["request_id"])
    log = Path(settings.home) / "logs" / "daemon.log"
    console.print(f"      Dagster's daemon takes the request from the queue (log: {log})")
    with _Daemon(log):
        ended = _wait_for_end(queue, request, console)
    if ended.state is not RequestState.DONE:
        console.print(f"[red]●[/red] request {request.request_id} is {ended.state}; see {log}")
        sys.exit(1)


def _wait_for_end(queue: RequestQueue, request: TuningRequest, console: Console) -> TuningRequest:
    """Read the request until it ends or its deadline passes; print each new state; return it."""
    started_s = time.monotonic()
    printed = None
    while True:
        request = queue.get(request.request_id)
        if request.state != printed:
            elapsed_s = time.monotonic() - started_s
            console.print(f"      request {request.state} after {elapsed_s:.0f} s")
            printed = request.state
        if request.state.is_final:
            return request
        if datetime.now(UTC) > request.deadline_at:
            return request
        time.sleep(1.0)


class _Daemon:
    """Run Dagster's daemon and its code servers for as long as the block lasts."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> None:
        program = str(Path(sys.executable).with_name("dagster-daemon"))
        self._process = ChildProcess.start(
            "dagster-daemon",
            [program, "run", "-w", "workspace.yaml"],
            log=self._log,
            environment=child_environment({}),
        )

    def __exit__(self, *error: object) -> None:
        self._process.stop(timeout_s=30, first=signal.SIGTERM)
