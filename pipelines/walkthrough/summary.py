"""The summary that `make run` ends with, read from what the assets recorded."""

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from rich.console import Console
from rich.table import Table

from maitre.settings import Settings
from pipelines.walkthrough.checks import CheckResult, newest_results
from pipelines.walkthrough.staleness import last_materialization


def print_summary(
    instance: dg.DagsterInstance,
    graphs: Iterable[BaseAssetGraph],
    settings: Settings,
    console: Console,
    wall_s: float,
) -> None:
    """Print what was tuned, what the bank saved, the capacity model, the plan and next steps."""
    console.print()
    console.print(_tuned_table(instance))
    console.print(_serving(instance))
    print_checks(newest_results(instance, graphs), console)
    console.print(
        f"Done in {wall_s:.0f} s. Next: [bold]make ui[/bold] for the asset graph and MLflow runs, "
        f"[bold]{settings.home}/plan[/bold] for the manifests, "
        "[bold]maitre.yaml[/bold] to bring your own model, tasks and adapters."
    )


def print_checks(results: Sequence[CheckResult], console: Console) -> None:
    """Print how many asset checks pass, and one line for each that does not."""
    passed = sum(result.passed for result in results)
    colour = "green" if passed == len(results) else "yellow"
    console.print(f"[{colour}]●[/{colour}] {passed} of {len(results)} asset checks pass")
    for result in results:
        if not result.passed:
            colour = "red" if result.blocking else "yellow"
            console.print(f"[{colour}]●[/{colour}] ", end="")
            console.print(result.line(), markup=False, soft_wrap=True)


def _tuned_table(instance: dg.DagsterInstance) -> Table:
    table = Table(title="Tuned prompts", title_justify="left")
    table.add_column("task")
    table.add_column("start from")
    for column in ("accuracy (majority)", "iterations (cold)", "saved", "seconds (cold)"):
        table.add_column(column, justify="right")
    for task in sorted(instance.get_dynamic_partitions("tasks")):
        found = _metadata(instance, "tuned_prompts", task)
        if not found:
            continue
        table.add_row(
            task,
            found["start"].rsplit("-", 1)[0],
            f"{found['eval_accuracy']:.3f} ({found['majority_share']:.3f})",
            *_saving_cells(found),
        )
    return table


def _saving_cells(found: dict[str, Any]) -> tuple[str, str, str]:
    """Return iterations, the saving, and seconds with the lookup; the cold run's in brackets."""
    warm, seconds = found["iterations"], found["seconds"]
    if "iterations_cold" not in found:
        return f"{warm}", "", f"{seconds:.1f}"
    cold = found["iterations_cold"]
    more = "" if found["cold_reached"] else "> "
    saved = "" if warm == 0 else f"{more}{cold / warm:.1f}x"
    return f"{warm} ({more}{cold})", saved, f"{seconds:.1f} ({found['seconds_cold']:.1f})"


def _serving(instance: dg.DagsterInstance) -> Table:
    traces = _metadata(instance, "twin_traces")
    model = _metadata(instance, "maxpack_model")
    plan = _metadata(instance, "placement_plan")
    table = Table(title="Serving", title_justify="left", show_header=False)
    table.add_row("configurations simulated", f"{traces['configurations']}")
    table.add_row("share of them that starved", f"{traces['starved_share']:.0%}")
    table.add_row("model against twin, throughput error", f"{model['throughput_error']:.2f} %")
    table.add_row("starvation macro-F1", f"{model['starvation_macro_f1']:.3f}")
    table.add_row("champion", f"maxpack version {model['champion_version']}")
    table.add_row(f"GPUs for {plan['adapters']} adapters", f"[bold]{plan['gpus']}[/bold]")
    table.add_row("lower bound", f"{plan['lower_bound_gpus']}")
    for name, gpus in plan.items():
        if name.startswith("gpus_"):
            table.add_row(f"  {name.removeprefix('gpus_')}", f"{gpus}")
    return table


def _metadata(
    instance: dg.DagsterInstance, asset: str, partition: str | None = None
) -> dict[str, Any]:
    made = last_materialization(instance, dg.AssetKey(asset), partition)
    return {name: value.value for name, value in made.metadata.items()} if made else {}
