"""`maitre requests`: the queue of tuning requests, and how `maitre tune` adds to it."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from maitre.cli.deadline import local_time, parse_deadline
from maitre.cli.given_settings import settings_of
from maitre.cli.output import print_json, print_table
from maitre.requests.request import DEFAULT_ITERATIONS, DEFAULT_TENANT

if TYPE_CHECKING:
    from maitre.requests.request import TuningRequest
    from maitre.requests.store import RequestStore
    from maitre.settings import Settings
    from maitre.workers.scheduling.submission import Submitted

app = typer.Typer(help="The queue of tuning requests.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Deadline = Annotated[str, typer.Option(help="A span (10m, in 2h) or a time.")]
Tenant = Annotated[str, typer.Option(help="The tenant that the request belongs to.")]
Key = Annotated[
    str | None, typer.Option(help="Idempotency key: submitting twice adds one request.")
]
AcceptLate = Annotated[
    bool, typer.Option("--accept-late", help="Queue it even if it cannot be done in time.")
]

_MOMENT = "%Y-%m-%d %H:%M:%S %Z"


def submit(
    settings: "Settings",
    task: str,
    deadline: str,
    tenant: str,
    json: bool,
    *,
    key: str | None = None,
    accept_late: bool = False,
    lookup: bool = True,
    max_iterations: int = DEFAULT_ITERATIONS,
) -> None:
    """Add a row to the request queue: `task`, of the tasks folder, is to be tuned by a deadline."""
    from maitre.tuning.task_source import task_source
    from maitre.workers.scheduling import submission

    task_source(settings.tasks).read(task)
    now = datetime.now(UTC)
    order = submission.TuneOrder(
        task,
        parse_deadline(deadline, now),
        tenant=tenant,
        idempotency_key=key,
        max_iterations=max_iterations,
        lookup=lookup,
        accept_late=accept_late,
    )
    submitted = submission.submit(settings, order, now)
    request = submitted.request
    if json:
        print_json(asdict(request))
        return
    when = local_time(request.deadline_at, now)
    if not submitted.is_new:
        print(f"{task} is {request.state} until {when} already, as {request.request_id} (--key)")
        return
    print(f"Queued {task} until {when} as {request.request_id}")
    _print_prospects(submitted, now)


def _print_prospects(submitted: "Submitted", now: datetime) -> None:
    """Print when the request will be done, for which price, and where it starts."""
    request = submitted.request
    if request.predicted_finish_at is not None:
        finish = local_time(request.predicted_finish_at, now)
        print(f"Predicted: done at {finish}, {request.predicted_price:.4f} of GPU time")
    if submitted.worker is not None:
        print(f"Started on {submitted.worker}")
    else:
        print("The sensor tuning_scheduler starts it while Dagster's daemon runs (make ui).")


@app.command("submit")
def submit_request(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A task of the tasks folder.")],
    deadline: Deadline = "1h",
    tenant: Tenant = DEFAULT_TENANT,
    key: Key = None,
    accept_late: AcceptLate = False,
    lookup: Annotated[bool, typer.Option(help="Ask the prompt bank for a start.")] = True,
    max_iterations: Annotated[
        int, typer.Option(help="Optimiser steps.", min=1)
    ] = DEFAULT_ITERATIONS,
    json: Json = False,
) -> None:
    """Queue a request to tune a task by a deadline, with the options of `maitre tune`."""
    submit(
        settings_of(context),
        task,
        deadline,
        tenant,
        json,
        key=key,
        accept_late=accept_late,
        lookup=lookup,
        max_iterations=max_iterations,
    )


@app.command("list")
def list_requests(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option(help="Largest number of requests to show.", min=1, max=1_000_000)
    ] = 1000,
    tenant: Tenant = DEFAULT_TENANT,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="List every tenant's requests.")
    ] = False,
    json: Json = False,
) -> None:
    """List a tenant's open requests and those that ended last, the newest last."""
    store = _store(settings_of(context))
    found, left_out = store.newest(limit, tenant=None if all_tenants else tenant)
    if left_out:
        print(f"maitre: {left_out} more are not listed (--limit)", file=sys.stderr)
    if json:
        print_json([asdict(request) for request in found])
        return
    lines = [
        _line(request) | ({"tenant": request.tenant} if all_tenants else {}) for request in found
    ]
    print_table(lines, "Tuning requests")


@app.command()
def show(
    context: typer.Context,
    request_id: str,
    tenant: Tenant = DEFAULT_TENANT,
    json: Json = False,
) -> None:
    """Show one of a tenant's requests."""
    _print_request(_store(settings_of(context)).get(request_id, tenant=tenant), json)


@app.command()
def cancel(
    context: typer.Context,
    request_id: str,
    tenant: Tenant = DEFAULT_TENANT,
    json: Json = False,
) -> None:
    """Cancel a request: at once in the queue, at its next step where it is being tuned."""
    settings = settings_of(context)
    request = _store(settings).cancel(request_id, now=datetime.now(UTC), tenant=tenant)
    if request.cancel_requested and request.run_id is not None:
        from maitre.workers.launch.graphql import DagsterClient, GraphqlError
        from maitre.workers.running_services import with_running_services

        url = with_running_services(settings).dagster_url
        try:
            if url:
                DagsterClient(url).terminate(request.run_id)
        except GraphqlError as error:
            # The scheduler cancels it at its next round.
            print(f"maitre: not cancelled at once: {error}", file=sys.stderr)
    if json:
        _print_request(request, json)
    else:
        done = "Cancelled" if request.state.is_final else "Asked to cancel"
        print(f"{done} {request_id}")


@app.command()
def retry(
    context: typer.Context,
    request_id: str,
    deadline: Annotated[str | None, typer.Option(help="A new deadline: a span or a time.")] = None,
    accept_late: AcceptLate = False,
    tenant: Tenant = DEFAULT_TENANT,
    json: Json = False,
) -> None:
    """Queue a failed or cancelled request again, and print when it would be done."""
    from maitre.workers.scheduling import submission

    now = datetime.now(UTC)
    deadline_at = None if deadline is None else parse_deadline(deadline, now)
    submitted = submission.retry(
        settings_of(context), request_id, now, deadline_at, accept_late, tenant=tenant
    )
    request = submitted.request
    if json:
        _print_request(request, json)
    else:
        print(f"Queued {request.task} again as attempt {request.attempt} of {request_id}")
        _print_prospects(submitted, now)


def _store(settings: "Settings") -> "RequestStore":
    from maitre.requests.store import RequestStore

    return RequestStore(settings.request_queue_url)


def _line(request: "TuningRequest") -> dict[str, str]:
    finish_at = request.predicted_finish_at
    return {
        "request": request.request_id,
        "task": request.task,
        "state": str(request.state),
        "deadline": f"{request.deadline_at:{_MOMENT}}",
        "predicted finish": f"{finish_at:{_MOMENT}}" if finish_at else "",
    }


def _print_request(request: "TuningRequest", json: bool) -> None:
    row = asdict(request)
    if json:
        print_json(row)
    else:
        title = f"Request {request.request_id}"
        print_table([{"field": k, "value": v} for k, v in row.items()], title)
