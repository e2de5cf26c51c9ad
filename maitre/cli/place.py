"""`maitre place`: from a catalogue of adapters to a plan of servers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli.output import check_writable, print_json, print_table
from maitre.errors import UserError, reading
from maitre.files import write_text

if TYPE_CHECKING:
    from maitre.placement.gpu_kinds import GpuKind
    from maitre.placement.plan import PlacementPlan

UNSOUND = 3
"""Exit status: the plan was written, and some of its servers fail their check."""

Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")]
Profiles = Annotated[
    list[str],
    typer.Option(help="A server profile, shipped or a file, as NAME[=PRICE]; repeat for several."),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder of a capacity model, one per profile; else the steady state decides."
    ),
]


def place(
    catalogue: Annotated[Path, typer.Argument(help="The adapter catalogue, CSV or Parquet.")],
    profile: Profiles,
    model: Models = None,
    risk: Annotated[float, typer.Option(help="Largest risk of an unhealthy server.")] = 0.01,
    ttft_slo: Annotated[float, typer.Option(help="Time to first token p99, in ms.")] = 10_000.0,
    headroom: Annotated[
        float, typer.Option(help="Share above the catalogue's rates up to which the risk holds.")
    ] = 0.05,
    check_duration: Annotated[
        float, typer.Option(help="Simulated seconds of each server's check, at least 300; 0: none.")
    ] = 3600.0,
    check_servers: Annotated[int, typer.Option(help="Largest number of servers to check.")] = 256,
    gpus: Annotated[
        int | None, typer.Option(help="Use up to this many GPUs to lower the latency.")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option(help="What if: COUNT:rank=R,rate=RPS more adapters.")
    ] = None,
    pin: Annotated[
        list[str] | None, typer.Option(help="ADAPTER=SERVER: must be on that server.")
    ] = None,
    replicas: Annotated[
        list[str] | None, typer.Option(help="ADAPTER=N: on at least N servers.")
    ] = None,
    running: Annotated[
        Path | None, typer.Option("--from", help="A running plan to change with few moves.")
    ] = None,
    max_moves: Annotated[
        int | None, typer.Option(help="With --from: largest number of adapters to move.")
    ] = None,
    closing_moves: Annotated[
        int, typer.Option(help="With --from: of those, moves that only close servers.")
    ] = 0,
    explain: Annotated[
        str | None, typer.Option(help="Explain why this adapter is on its server.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also count simpler methods' GPUs.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same plan.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write an HTML page about the plan.")
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Place adapters on the fewest servers such that none starves.

    Exit status 3 where a changed plan (--from) has servers that fail their check.
    """
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.explain import explain_adapter, one_fewer
    from maitre.placement.gpu_kinds import place_at_lowest_cost
    from maitre.placement.promise import Promise
    from maitre.placement.replan import MoveBudget, replan_and_check
    from maitre.placement.settings import Constraints, PlacementError, PlacementSettings
    from maitre.placement.whatif import Addition, with_added

    for path in (out, report):
        if path is not None:
            check_writable(path)
    additions = [Addition.parse(text) for text in add or []]
    if (max_moves or 0) < 0 or closing_moves < 0:
        raise PlacementError("--max-moves and --closing-moves must not be negative")
    if running is None and (max_moves is not None or closing_moves):
        raise PlacementError(
            "--max-moves and --closing-moves limit the change of a running plan: give it by --from"
        )
    if running is not None and (gpus is not None or replicas):
        raise PlacementError(
            "--gpus and --replicas are for a new plan; --from keeps the servers of the running one"
        )
    counts = _pairs("--replicas", replicas)
    constraints = Constraints(
        _pairs("--pin", pin), {a: _count("--replicas", a, n) for a, n in counts.items()}
    )
    kinds = _kinds(profile, model or [])
    only = kinds[0]
    if len(kinds) > 1 and (additions or running or explain):
        raise PlacementError("--add, --from and --explain are for one profile at a time")
    settings = PlacementSettings(
        Promise(risk, ttft_slo, headroom), check_duration, check_servers, baselines, gpus, seed
    )
    adapters = AdapterCatalogue.read(
        catalogue,
        base_models={kind.profile.base_model for kind in kinds},
        max_rank=max(kind.profile.valid.max_lora_rank[1] for kind in kinds),
    )
    before = _running_plan(running) if running else None
    extra: dict[str, Any] = {}
    progress = None if json else _print_progress
    wider = with_added(adapters, only.profile.base_model, additions)
    if explain is not None and explain not in wider.names:
        raise PlacementError(
            f"--explain {explain}: expected the name of an adapter; {catalogue} has no such row"
        )
    if before is not None:
        plan = replan_and_check(
            before, wider, only.profile, settings, MoveBudget(max_moves, closing_moves),
            model=only.model, pins=constraints.pins, on_progress=progress,
        )  # fmt: skip
    else:
        if additions:
            before = place_at_lowest_cost(adapters, kinds, settings, constraints=constraints)
        plan = place_at_lowest_cost(
            wider, kinds, settings, constraints=constraints, on_progress=progress
        )
    if additions and before is not None:
        extra["what_if"] = {
            "added": sum(addition.count for addition in additions),
            "gpus_before": before.gpus,
            "gpus_after": plan.gpus,
        }
    diff = before.diff(plan) if before is not None and running else None
    if diff is not None:
        extra["diff"] = diff.to_dict()
    fewer = None
    if explain is not None:
        found = explain_adapter(plan, wider, only.profile, explain, model=only.model)
        fewer = one_fewer(plan, wider, only.profile, model=only.model)
        extra["explanation"] = [why.to_dict() for why in found]
        extra["one_server_fewer"] = fewer.text
    if out is not None:
        write_text(out, plan.to_json())
    if report is not None:
        from maitre.placement.report import plan_page

        if fewer is None and len(kinds) == 1:
            fewer = one_fewer(plan, wider, only.profile, model=only.model)
        write_text(report, plan_page(plan, diff=diff, one_fewer=fewer.text if fewer else ""))
    if json:
        print_json({**plan.to_dict(), **extra})
    else:
        _print_plan(plan, len(wider), extra)
    if plan.evidence.unsound:
        if json:
            print(_failing_servers(plan), file=sys.stderr)
        raise typer.Exit(UNSOUND)


def _running_plan(path: Path) -> "PlacementPlan":
    from maitre.placement.plan import PlacementPlan, PlanError

    if path.is_dir():
        raise PlanError(f"--from {path} is a folder; give the file of a plan")
    if not path.is_file():
        raise UserError(f"--from {path}: there is no such plan")
    try:
        with reading(path, PlanError):
            text = path.read_text(encoding="utf-8")
        return PlacementPlan.from_json(text)
    except PlanError as error:
        raise PlanError(f"--from {path}: {error}") from error


def _kinds(profiles: list[str], models: list[Path]) -> "list[GpuKind]":
    from maitre.maxpack.model import MaxpackModel
    from maitre.placement.gpu_kinds import GpuKind
    from maitre.placement.settings import PlacementError
    from maitre.twin import ServerProfile

    loaded: list[MaxpackModel] = [MaxpackModel.load(folder) for folder in models]
    kinds = []
    for text in profiles:
        name, price = text, 1.0
        if "=" in text:
            name, _, given = text.rpartition("=")
            try:
                price = float(given)
            except ValueError:
                raise PlacementError(f"--profile {text}: {given!r} is not a price") from None
            if not 0 < price < float("inf"):
                raise PlacementError(f"--profile {text}: a price must be above 0")
        found = ServerProfile.load(name)
        mine = [m for m in loaded if m.card.profile_fingerprint == found.fingerprint()]
        # A stale model is better refused by name than passed over.
        chosen = mine[0] if mine else (loaded[0] if len(profiles) == 1 and loaded else None)
        if chosen is None and loaded:
            raise PlacementError(f"none of the capacity models was fitted for {found.name}")
        kinds.append(GpuKind(found, price, chosen))
    return kinds


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    from maitre.placement.settings import PlacementError

    pairs = {}
    for text in texts or []:
        adapter, separator, value = text.rpartition("=")
        if not separator or not adapter or not value:
            raise PlacementError(f"{option} {text!r}: give ADAPTER=VALUE")
        pairs[adapter] = value
    return pairs


def _count(option: str, adapter: str, text: str) -> int:
    from maitre.placement.settings import PlacementError

    try:
        return int(text)
    except ValueError:
        raise PlacementError(f"{option} {adapter}={text}: {text!r} is not a whole number") from None


def _print_plan(plan: "PlacementPlan", adapters: int, extra: dict[str, Any]) -> None:
    print_table(
        [
            {
                "server": server.name,
                "adapters": len(server.adapters),
                "slots": server.config.max_loras,
                "rank": server.config.max_lora_rank,
                "requests/s": round(predicted.rate_rps, 2),
                "tokens/s": round(predicted.offered_tps),
                "fill": predicted.fill,
                "limited by": predicted.limited_by,
                "risk": predicted.starvation_risk,
            }
            for server in plan.servers
            if (predicted := server.predicted)
        ],
        f"{adapters} adapters on {plan.gpus} GPUs",
    )
    for warning in plan.evidence.warnings or ():
        print(f"warning: {warning}")
    print(f"lower bound: {plan.lower_bound_gpus} GPUs")
    if (bound := plan.evidence.lower_bound_gpus_with_headroom) is not None:
        print(f"lower bound with the headroom: {bound} GPUs")
    for name, gpus in plan.baselines.items():
        print(f"{name}: {gpus} GPUs ({100 * (1 - plan.gpus / gpus):.0f} % saved)")
    if what_if := extra.get("what_if"):
        print(
            f"what if: {what_if['added']} adapters more take {what_if['gpus_after']} GPUs "
            f"instead of {what_if['gpus_before']}"
        )
    if diff := extra.get("diff"):
        print(
            f"changes: {len(diff['moves'])} adapters move, {len(diff['servers_added'])} servers "
            f"start, {len(diff['servers_removed'])} stop, "
            f"{len(diff['servers_reconfigured'])} restart; {len(diff['steps'])} steps"
        )
    if over := plan.evidence.servers_over_risk:
        print(f"over the risk, for want of moves: {', '.join(over)}")
    if (failed := plan.evidence.servers_failed) is not None:
        checked = plan.evidence.servers_checked
        print(f"check in the twin: {checked} of {plan.gpus} servers simulated, {len(failed)} fail")
    if plan.evidence.unsound:
        print(_failing_servers(plan))
    for explanation in extra.get("explanation", []):
        print(explanation["text"])
    if "one_server_fewer" in extra:
        print(extra["one_server_fewer"])


def _failing_servers(plan: "PlacementPlan") -> str:
    servers = "".join(f"\n  {name}: {why}" for name, why in plan.evidence.unsound.items())
    return (
        "this plan fails its check; allow more --max-moves and --closing-moves, or make a new plan "
        f"without --from:{servers}"
    )


def _print_progress(done: int, total: int, note: str = "") -> None:
    print(f"{note}: {done}/{total}", file=sys.stderr)
