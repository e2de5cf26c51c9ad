"""`maitre cluster replay`: take a decision of the live scheduler again, offline."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from maitre.cli.output import print_json, print_table


def replay(
    tick: Annotated[Path, typer.Argument(help="A tick-*.json of the data home's ticks.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Repeat a policy's decision on a recorded snapshot; exit 1 if it differs."""
    from maitre.workers.scheduling.decision_log import read_tick

    decision = read_tick(tick)
    now = [_row(action) for action in decision.decide_again()]
    then = [_row(action) for action in decision.actions]
    if json:
        print_json({"policy": decision.policy, "same": now == then, "actions": now})
    else:
        print_table(
            [{"action": r["action"], "what": _parameters_text(r)} for r in now],
            f"{decision.policy} on {tick.name}" + ("" if now == then else ": DIFFERS"),
        )
    if now != then:
        raise typer.Exit(1)


def _row(action: Any) -> dict[str, Any]:
    return {"action": type(action).__name__, **asdict(action)}


def _parameters_text(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if name != "action")
