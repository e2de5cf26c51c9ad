"""`make run`: bring the whole graph up to date, send one request through the queue, sum up.

Only what is out of date is made: see `staleness`. Everything runs against the same Dagster instance
and MLflow store that `make ui` shows.
"""

import logging
import sys
import time
from typing import Any

import dagster as dg
from rich.console import Console

from assets.tuning.tuned_prompts import TASKS_NAME, tuned_prompts
from maitre.settings import Settings
from pipelines import serving, tuning
from pipelines.jobs import TERMINAL_RUN_CONFIG
from pipelines.walkthrough.live_request import tune_through_the_queue
from pipelines.walkthrough.staleness import failed_check, why_stale
from pipelines.walkthrough.summary import print_summary

COMPARE = {
    **TERMINAL_RUN_CONFIG,
    "ops": {"tuned_prompts": {"config": {"compare_with_cold": True}}},
}


def main() -> None:
    """Run the walkthrough; exit 1 with one line when a step fails."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    console = Console()
    if not console.is_terminal:
        # A log file has no width; the tables need this much.
        console = Console(width=110)
    settings = Settings.read()
    started_s = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        bring_up_to_date(instance, settings, console)
        tune_through_the_queue(instance, settings, console)
        print_summary(instance, settings, console, wall_s=time.monotonic() - started_s)


def bring_up_to_date(instance: dg.DagsterInstance, settings: Settings, console: Console) -> None:
    """Record the inputs, then make each stale asset, upstream first."""
    for module, job_name in ((tuning, "everything"), (serving, "serving")):
        record_inputs(instance, module.defs, job_name, [a.key for a in module.INPUTS], console)
    for asset in tuning.BANK:
        make_if_stale(instance, tuning.defs, "everything", asset, None, console)
    # The last of the held-back tasks goes through the request queue instead.
    direct = list(settings.held_back[:-1])
    instance.add_dynamic_partitions(TASKS_NAME, direct)
    for task in direct:
        make_if_stale(instance, tuning.defs, "tune", tuned_prompts, task, console, COMPARE)
    for asset in [*serving.MODEL, *serving.PLACEMENT]:
        make_if_stale(instance, serving.defs, "serving", asset, None, console)


def record_inputs(
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    job_name: str,
    keys: list[dg.AssetKey],
    console: Console,
) -> None:
    """Record what the user's inputs are now."""
    result = defs.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        asset_selection=keys,
        run_config=TERMINAL_RUN_CONFIG,
        raise_on_error=False,
    )
    if not result.success:
        console.print(f"[red]●[/red] inputs: {why_failed(result)}")
        sys.exit(1)


def make_if_stale(
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    job_name: str,
    asset: dg.AssetsDefinition,
    partition_key: str | None,
    console: Console,
    run_config: dict[str, Any] = TERMINAL_RUN_CONFIG,
) -> None:
    """Materialise one asset, with its checks, when it is out of date; exit 1 when that fails."""
    name = asset.key.to_user_string()
    shown = f"{name} {partition_key}" if partition_key else name
    checks = list(defs.resolve_asset_graph().get_check_keys_for_assets({asset.key}))
    reason = why_stale(instance, asset, partition_key) or failed_check(instance, checks)
    if reason is None:
        console.print(f"[green]●[/green] {shown}: up to date")
        return
    console.print(f"[yellow]●[/yellow] [bold]{shown}[/bold]: {reason}")
    result = defs.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        asset_selection=[asset.key],
        partition_key=partition_key,
        run_config=run_config,
        raise_on_error=False,
    )
    wrong = [e for e in result.get_asset_check_evaluations() if not e.passed]
    for evaluation in wrong:
        console.print(f"[yellow]●[/yellow] {shown}: check {evaluation.check_name} failed")
    blocking = any(e.severity is dg.AssetCheckSeverity.ERROR for e in wrong)
    if blocking or not result.success:
        console.print(f"[red]●[/red] {shown}: {why_failed(result) or 'see its checks'}")
        sys.exit(1)


def why_failed(result: dg.ExecuteInProcessResult) -> str | None:
    """The message of the first step that failed, without the name of the error's class."""
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            message = (error.cause or error).message.strip()
            kind, _, text = message.partition(": ")
            return text if text and " " not in kind else message
    return None


if __name__ == "__main__":
    main()
