"""`maitre requests`: the queue of tuning requests, and how `maitre tune` adds to it."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from maitre.cli.deadline import parse_deadline
from maitre.cli.output import print_json, print_table

app = typer.Typer(help="The queue of tuning requests.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(task: str, deadline: str, tenant: str, json: bool) -> None:
    """Add a row to the request queue: `task`, of the tasks folder, is to be tuned by a deadline."""
    from maitre.tuning.tasks import find_task
    from resources.request_queue import RequestQueue
    from resources.settings import Settings

    settings = Settings.read()
    find_task(settings.tasks, task)
    now = datetime.now(UTC)
    request = RequestQueue(url=settings.request_queue_url).submit(
        task, deadline_at=parse_deadline(deadline, now), now=now, tenant=tenant
    )
    if json:
        print_json(asdict(request))
    else:
        when = request.deadline_at.astimezone().strftime("%H:%M:%S")
        print(f"Queued {task} until {when} as {request.request_id}")
        print("The sensor tuning_requests starts it while Dagster's daemon runs (make ui).")


@app.command("list")
def list_requests(json: Json = False) -> None:
    """List the requests, the earliest deadline first."""
    from resources.request_queue import RequestQueue
    from resources.settings import Settings

    rows = [asdict(r) for r in RequestQueue(url=Settings.read().request_queue_url).find()]
    if json:
        print_json(rows)
        return
    shown = ("request_id", "task", "state", "deadline_at", "run_id")
    print_table([{name: row[name] for name in shown} for row in rows], "Tuning requests")


@app.command()
def show(request_id: str, json: Json = False) -> None:
    """Show one request."""
    from resources.request_queue import RequestQueue
    from resources.settings import Settings

    row = asdict(RequestQueue(url=Settings.read().request_queue_url).get(request_id))
    if json:
        print_json(row)
    else:
        print_table([{"field": k, "value": v} for k, v in row.items()], f"Request {request_id}")


@app.command()
def cancel(request_id: str) -> None:
    """Cancel a request that has not been started."""
    from resources.request_queue import RequestError, RequestQueue, RequestState
    from resources.settings import Settings

    queue = RequestQueue(url=Settings.read().request_queue_url)
    if not queue.move(request_id, expected=RequestState.QUEUED, state=RequestState.CANCELLED):
        raise RequestError(f"request {request_id} is {queue.get(request_id).state}, not queued")
    print(f"Cancelled {request_id}")
