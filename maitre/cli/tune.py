"""`maitre tune`: ask for a task to be tuned by a deadline, or tune it here and now."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from maitre.cli import requests
from maitre.cli.given_settings import settings_of
from maitre.cli.local_tuning import LocalTuning, tune_here
from maitre.errors import UserError
from maitre.requests.request import DEFAULT_ITERATIONS, DEFAULT_TENANT
from maitre.tenants import owner_of_prompts

LOCAL = "With --local"
QUEUED_ONLY = ("deadline", "key", "accept_late")


def tune(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A task of the tasks folder; local: or a folder.")],
    deadline: requests.Deadline = "1h",
    tenant: requests.Tenant = DEFAULT_TENANT,
    key: requests.Key = None,
    accept_late: requests.AcceptLate = False,
    max_iterations: Annotated[
        int | None,
        typer.Option(
            help=f"Largest number of steps (default: {DEFAULT_ITERATIONS}; 60 with --local)."
        ),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Tune in this process, now.")] = False,
    method: Annotated[
        Literal["prompt", "lora"],
        typer.Option(help="Tune a soft prompt or a LoRA adapter.", rich_help_panel=LOCAL),
    ] = "prompt",
    init: Annotated[
        str | None,
        typer.Option(
            help="Start: bank (default), text, random or an entry's id.", rich_help_panel=LOCAL
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Seed of the cold start and of the batches.", rich_help_panel=LOCAL
        ),
    ] = 0,
    target_loss: Annotated[
        float | None, typer.Option(help="Stop at this eval loss.", rich_help_panel=LOCAL)
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Stop at this eval accuracy.", rich_help_panel=LOCAL)
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(help="Bank: folder or URL (default: data home).", rich_help_panel=LOCAL),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Leave out the bank's prompts of this task.", rich_help_panel=LOCAL),
    ] = None,
    position: Annotated[
        Literal["suffix", "prefix"] | None,
        typer.Option(help="Where the prompt stands (default: the bank's).", rich_help_panel=LOCAL),
    ] = None,
    virtual_tokens: Annotated[
        int | None,
        typer.Option(help="Length of the prompt (default: the bank's).", rich_help_panel=LOCAL),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapter.", rich_help_panel=LOCAL)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Scale of the adapter: its updates count alpha / rank (default: 16).",
            rich_help_panel=LOCAL,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="Dropout of the adapter's inputs (default: 0).", rich_help_panel=LOCAL),
    ] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            help="Layers to adapt, separated by commas, or all-linear (default: peft's).",
            rich_help_panel=LOCAL,
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=LOCAL)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per step.", rich_help_panel=LOCAL)
    ] = None,
    eval_every: Annotated[
        int, typer.Option(help="Steps between evaluations.", rich_help_panel=LOCAL)
    ] = 2,
    workers: Annotated[
        int, typer.Option(help="Processes that share each batch.", rich_help_panel=LOCAL)
    ] = 1,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="File of the checkpoint; a run continues from it.", rich_help_panel=LOCAL
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write what was tuned to this new folder.", rich_help_panel=LOCAL),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Queue a request to tune a task by a deadline.

    With --local, tune in this process instead and print the result.
    """
    _refuse_what_is_not_for(context, local)
    if not local:
        requests.submit(
            settings_of(context),
            task,
            deadline,
            tenant,
            json,
            key=key,
            accept_late=accept_late,
            max_iterations=DEFAULT_ITERATIONS if max_iterations is None else max_iterations,
        )
        return
    tune_here(
        settings_of(context),
        LocalTuning(
            task=task,
            method=method,
            init=init,
            seed=seed,
            max_iterations=60 if max_iterations is None else max_iterations,
            target_loss=target_loss,
            target_accuracy=target_accuracy,
            bank=bank,
            tenant=owner_of_prompts(tenant),
            leave_out=tuple(leave_out or ()),
            position=position,
            virtual_tokens=virtual_tokens,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            target_modules=_names(target_modules),
            learning_rate=learning_rate,
            batch_size=batch_size,
            eval_every=eval_every,
            workers=workers,
            checkpoint=checkpoint,
            out=out,
        ),
        json,
    )


def _names(listed: str | None) -> tuple[str, ...] | None:
    """Return names that commas separate."""
    return None if listed is None else tuple(name.strip() for name in listed.split(","))


def _refuse_what_is_not_for(context: typer.Context, local: bool) -> None:
    """Raise `UserError` naming the options that were given and would be ignored."""
    ignored = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in context.params
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
        and (
            parameter.name in QUEUED_ONLY
            if local
            else getattr(parameter, "rich_help_panel", None) == LOCAL
        )
    ]
    if ignored:
        what = "of the queue, not with --local" if local else "only with --local"
        raise UserError(f"{', '.join(ignored)}: {what}")
