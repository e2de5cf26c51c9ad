"""`make run`: bring the whole graph up to date, send one request through the queue, sum up.

Only what is stale is made: see `staleness`. Everything runs against the Dagster instance and the
MLflow store that `make ui` shows.
"""

import logging
import sys
import time
from typing import Any

import dagster as dg
from rich.console import Console

from assets.tuning.tuned_prompts import TASKS_NAME, tuned_prompts
from maitre.settings import Settings
from pipelines.code_location import code_location
from pipelines.jobs.serving import DEPLOYMENTS
from pipelines.jobs.tuning import BANK
from pipelines.serving import serving_half
from pipelines.terminal_log import TERMINAL_RUN_CONFIG
from pipelines.tuning import tuning_half
from pipelines.walkthrough.live_request import tune_through_the_queue
from pipelines.walkthrough.staleness import failed_check, why_stale
from pipelines.walkthrough.summary import print_summary

COMPARE = {
    **TERMINAL_RUN_CONFIG,
    "ops": {"tuned_prompts": {"config": {"compare_with_cold": True}}},
}


def main() -> None:
    """Run the walkthrough; exit with 1 and one line when a step fails."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    console = Console()
    if not console.is_terminal:
        # A log file has no width; the tables need this much.
        console = Console(width=110)
    settings = Settings.read()
    started_s = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        tuning = code_location(settings, tuning_half(settings))
        serving = code_location(settings, serving_half(settings))
        bring_up_to_date(instance, tuning, serving, settings, console)
        tune_through_the_queue(instance, tuning.resolve_asset_graph(), settings, console)
        graphs = [defs.resolve_asset_graph() for defs in (tuning, serving)]
        wall_s = time.monotonic() - started_s
        print_summary(instance, graphs, settings, console, wall_s=wall_s)


def bring_up_to_date(
    instance: dg.DagsterInstance,
    tuning: dg.Definitions,
    serving: dg.Definitions,
    settings: Settings,
    console: Console,
) -> None:
    """Record the inputs, then make each stale asset, upstream first."""
    inputs = dg.AssetSelection.groups("inputs")
    for defs, job_name, made in (
        (tuning, "refresh_bank", BANK),
        (serving, "serving", DEPLOYMENTS),
    ):
        record_inputs(instance, defs, job_name, upstream_first(defs, made & inputs), console)
    for key in upstream_first(tuning, BANK - inputs):
        make_if_stale(instance, tuning, "refresh_bank", key, None, console)
    # The last of the held-back tasks goes through the request queue instead.
    direct = list(settings.held_back[:-1])
    instance.add_dynamic_partitions(TASKS_NAME, direct)
    for task in direct:
        make_if_stale(instance, tuning, "tune", tuned_prompts.key, task, console, COMPARE)
    for key in upstream_first(serving, DEPLOYMENTS - inputs):
        make_if_stale(instance, serving, "serving", key, None, console)


def upstream_first(defs: dg.Definitions, selection: dg.AssetSelection) -> list[dg.AssetKey]:
    """Return the keys of the selected assets, each after those that it depends on."""
    graph = defs.resolve_asset_graph()
    selected = selection.resolve(graph)
    return [key for key in graph.toposorted_asset_keys if key in selected]


def record_inputs(
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    job_name: str,
    keys: list[dg.AssetKey],
    console: Console,
) -> None:
    """Record the data versions of the user's inputs as they are now."""
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
    key: dg.AssetKey,
    partition_key: str | None,
    console: Console,
    run_config: dict[str, Any] = TERMINAL_RUN_CONFIG,
) -> None:
    """Materialise one asset, with its checks, if it is stale; exit with 1 when that fails."""
    name = key.to_user_string()
    shown = f"{name} {partition_key}" if partition_key else name
    graph = defs.resolve_asset_graph()
    reason = why_stale(instance, graph, key, partition_key) or failed_check(
        instance, graph.get_check_keys_for_assets({key})
    )
    if reason is None:
        console.print(f"[green]●[/green] {shown}: up to date")
        return
    console.print(f"[yellow]●[/yellow] [bold]{shown}[/bold]: {reason}")
    result = defs.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        asset_selection=[key],
        partition_key=partition_key,
        run_config=run_config,
        raise_on_error=False,
    )
    wrong = [e for e in result.get_asset_check_evaluations() if not e.passed]
    for evaluation in wrong:
        why = f": {evaluation.description}" if evaluation.description else ""
        console.print(f"[yellow]●[/yellow] {shown}: check {evaluation.check_name} failed{why}")
    blocking = any(e.severity is dg.AssetCheckSeverity.ERROR for e in wrong)
    if blocking or not result.success:
        console.print(f"[red]●[/red] {shown}: {why_failed(result) or 'see its checks'}")
        sys.exit(1)


def why_failed(result: dg.ExecuteInProcessResult) -> str | None:
    """Return the message of the first step that failed, without the name of the error's class."""
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            message = (error.cause or error).message.strip()
            kind, _, text = message.partition(": ")
            return text if text and " " not in kind else message
    return None


if __name__ == "__main__":
    main()
