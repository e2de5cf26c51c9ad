"""`maitre place`: from a catalogue of adapters to a plan of servers."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from maitre.cli.output import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")]


def place(
    catalogue: Annotated[Path, typer.Argument(help="The adapter catalogue, CSV or Parquet.")],
    profile: Annotated[str, typer.Option(help="A shipped server profile, or a file.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of a capacity model; else the steady state decides.")
    ] = None,
    risk: Annotated[float, typer.Option(help="Largest risk of an unhealthy server.")] = 0.01,
    ttft_slo: Annotated[float, typer.Option(help="Time to first token p99, in ms.")] = 10_000.0,
    headroom: Annotated[
        float, typer.Option(help="Part by which the check's rates are higher.")
    ] = 0.05,
    check_duration: Annotated[
        float, typer.Option(help="Simulated seconds of each server's check; 0: no check.")
    ] = 3600.0,
    baselines: Annotated[bool, typer.Option(help="Also compute what simpler methods need.")] = True,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plan.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write an HTML page about the plan.")
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Place adapters on the fewest servers such that none starves."""
    from maitre.maxpack.model import MaxpackModel
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.place import place as make_plan
    from maitre.twin import ServerProfile

    server_profile = ServerProfile.load(profile)
    adapters = AdapterCatalogue.read(
        catalogue,
        base_models={server_profile.base_model},
        max_rank=server_profile.valid.max_lora_rank[1],
    )
    plan = make_plan(
        adapters,
        server_profile,
        model=MaxpackModel.load(model) if model else None,
        risk=risk,
        seed=seed,
        ttft_slo_ms=ttft_slo,
        headroom=headroom,
        check_duration_s=check_duration,
        baselines=baselines,
        on_progress=None if json else _print_progress,
    )
    if out is not None:
        _write(out, plan.to_json())
    if report is not None:
        from maitre.placement.report import plan_page

        _write(report, plan_page(plan))
    if json:
        print_json(plan.to_dict())
        return
    print_table(
        [
            {
                "server": server.name,
                "adapters": len(server.adapters),
                "slots": server.config["max_loras"],
                "rank": server.config["max_lora_rank"],
                "requests/s": round(server.predicted["rate_rps"], 2),
                "tokens/s": round(server.predicted["offered_tps"]),
                "fill": server.predicted["fill"],
                "risk": server.predicted["starvation_risk"],
            }
            for server in plan.servers
        ],
        f"{len(adapters)} adapters on {plan.gpus} GPUs",
    )
    print(f"lower bound: {plan.lower_bound_gpus} GPUs")
    for name, gpus in plan.baselines.items():
        print(f"{name}: {gpus} GPUs ({100 * (1 - plan.gpus / gpus):.0f} % saved)")


def _print_progress(step: str, done: int, total: int) -> None:
    print(f"{step}: {done}/{total}", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
