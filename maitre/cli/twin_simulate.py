"""`maitre twin simulate`: one server under a catalogue, a trace, or the adapters of a plan."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli.output import print_json, print_table
from maitre.errors import UserError, reading

if TYPE_CHECKING:
    from maitre.maxpack.health import Health
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.plan import PlacementPlan, PlannedServer
    from maitre.twin import ServerConfig, ServerProfile, SimulationResult, Workload

DURATION_S = 3600.0
MAX_LORAS = 32
BATCH = 2048
TRACE_RANK = 16
NAMES_SHOWN = 10


def simulate(
    profile: Annotated[
        str | None,
        typer.Option(help="A shipped server profile, or a file; default with --plan: the plan's."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="The adapter catalogue, CSV or Parquet. With --trace it gives the ranks, with "
            "--plan ranks and rates."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Requests to replay, as CSV, Parquet or JSON lines: arrival_s, adapter, "
            "input_tokens, output_tokens, or another --format."
        ),
    ] = None,
    format: Annotated[  # noqa: A002 the option's name
        str | None,
        typer.Option(
            help="Format of the trace: maitre, azure, vidur, burstgpt or mooncake; default: "
            "recognised by its columns."
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan, as `maitre place --json` prints it.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="With --plan: the server to simulate; default: the only one.")
    ] = None,
    max_loras: Annotated[
        int | None, typer.Option(help=f"GPU slots for adapters; default: {MAX_LORAS}.")
    ] = None,
    max_lora_rank: Annotated[
        int | None,
        typer.Option(
            help="Rank of a slot; default: the largest served, rounded up to one that vLLM has."
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(help=f"Sequences in a batch; default: {BATCH}.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help=f"Tokens in a batch; default: {BATCH}.")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="A named distribution of lengths; default: sharegpt.")
    ] = None,
    mean_input_tokens: Annotated[
        float | None,
        typer.Option(help="Mean length of a prompt, in tokens; default: the distribution's."),
    ] = None,
    mean_output_tokens: Annotated[
        float | None,
        typer.Option(help="Mean length of an answer, in tokens; default: the distribution's."),
    ] = None,
    cv: Annotated[
        float | None,
        typer.Option(help="Coefficient of variation of gaps between arrivals; default: 1."),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help=f"Simulated seconds; default: {DURATION_S:g}, with --trace until the last arrival."
        ),
    ] = None,
    ttft_slo: Annotated[
        float | None,
        typer.Option(
            help="Objective for the 99th percentile of the time to first token, in ms; default: "
            "10000, with --plan the plan's."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same result; default: 0.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate one server under a catalogue of adapters, a trace of requests, or a plan.

    The verdict is that of placement: healthy, or why not.
    """
    from maitre import twin
    from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS, HealthRule, judge

    limits = {
        "--max-loras": max_loras,
        "--max-lora-rank": max_lora_rank,
        "--max-num-seqs": max_num_seqs,
        "--max-num-batched-tokens": max_num_batched_tokens,
    }
    load = {
        "--lengths": lengths,
        "--mean-input-tokens": mean_input_tokens,
        "--mean-output-tokens": mean_output_tokens,
        "--cv": cv,
    }
    if plan is not None:
        _refuse({"--trace": trace, **limits}, "--plan gives adapters and limits")
    if trace is not None:
        _refuse(load, "--trace gives arrivals and lengths")
    else:
        _refuse({"--format": format}, "it is for --trace")
    if plan is None:
        _refuse({"--server": server}, "it is for --plan")
        if trace is None and catalogue is None:
            raise UserError("give --catalogue, --trace or --plan: what to simulate")
    of_plan = _plan_server(plan, server) if plan is not None else None
    used = twin.ServerProfile.load(_profile_name(profile, of_plan))
    adapters = _catalogue(catalogue, used)
    run_seed = seed or 0
    if trace is not None:
        case = _of_trace(trace, format, adapters, duration, max_lora_rank, run_seed)
        if not case.dealt:
            _refuse({"--seed": seed}, "--trace gives every arrival")
    else:
        if adapters is None:
            raise UserError("--plan holds no rates and ranks: give the catalogue by --catalogue")
        case = _of_catalogue(
            adapters,
            of_plan.server if of_plan else None,
            twin.Lengths.named(lengths or "sharegpt", mean_input_tokens, mean_output_tokens),
            twin.Burstiness() if cv in (None, 1.0) else twin.Burstiness("gamma", cv=cv or 0.0),
            DURATION_S if duration is None else duration,
        )
    if of_plan is not None:
        config = twin.ServerConfig(**of_plan.server.config.limits())
    else:
        slots = MAX_LORAS if max_loras is None else max_loras
        config = twin.ServerConfig(
            max_loras=slots,
            max_cpu_loras=max(slots, case.adapters),
            max_lora_rank=_slot_rank(case.workload, max_lora_rank),
            max_num_seqs=BATCH if max_num_seqs is None else max_num_seqs,
            max_num_batched_tokens=BATCH
            if max_num_batched_tokens is None
            else max_num_batched_tokens,
        )
    if ttft_slo is None:
        ttft_slo = of_plan.plan.promise.ttft_slo_ms if of_plan else DEFAULT_TTFT_SLO_MS
    result = _run(used, config, case.workload, run_seed, warm=of_plan is not None)
    health = judge(result, HealthRule(ttft_slo_ms=ttft_slo))
    notes = [*case.notes, *_notes_on_short_replays(result, health, trace is not None)]
    if json:
        print_json(_document(result, health, case.workload, config, notes, ttft_slo))
    else:
        _print(result, health, case.workload, config, notes)


@dataclass(frozen=True, eq=False)
class _Case:
    """A workload with the number of adapters that the server holds, and what to say about it."""

    workload: "Workload"
    adapters: int
    notes: tuple[str, ...] = ()
    dealt: bool = False


@dataclass(frozen=True)
class _PlanServer:
    plan: "PlacementPlan"
    server: "PlannedServer"


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options that would have no effect."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: no effect here ({why}); leave it out")


def _plan_server(path: Path, name: str | None) -> _PlanServer:
    from maitre.placement.plan import PlacementPlan, PlanError

    with reading(path, PlanError):
        text = path.read_text(encoding="utf-8")
    try:
        plan = PlacementPlan.from_json(text)
    except PlanError as error:
        raise PlanError(f"--plan {path}: {error}") from error
    names = [server.name for server in plan.servers]
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        got = "no --server" if name is None else f"--server {name}"
        raise UserError(f"{path}: expected the name of one of its servers ({shown}); got {got}")
    return _PlanServer(plan, plan.servers[names.index(name)])


def _profile_name(profile: str | None, of_plan: _PlanServer | None) -> str:
    if profile is not None:
        return profile
    if of_plan is None:
        raise UserError("--profile: expected a server profile; `maitre twin profiles` lists them")
    return of_plan.server.profile or of_plan.plan.profile


def _catalogue(path: Path | None, profile: "ServerProfile") -> "AdapterCatalogue | None":
    """Return the catalogue by the reader of `maitre place`; `base_model` may be left out."""
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.twin.limits import BUFFER_RANKS

    if path is None:
        return None
    return AdapterCatalogue.read(
        path,
        base_model=profile.base_model,
        base_models={profile.base_model},
        max_rank=BUFFER_RANKS[-1],
    )


def _of_catalogue(
    catalogue: "AdapterCatalogue",
    server: "PlannedServer | None",
    lengths: Any,
    burstiness: Any,
    duration_s: float,
) -> _Case:
    from maitre.placement.simulate_plan import server_loads
    from maitre.twin import Workload

    loads = catalogue.loads() if server is None else server_loads(server, catalogue)
    return _Case(Workload(loads, lengths, duration_s, burstiness=burstiness), len(loads))


def _of_trace(
    path: Path,
    format_name: str | None,
    catalogue: "AdapterCatalogue | None",
    duration_s: float | None,
    max_lora_rank: int | None,
    seed: int,
) -> _Case:
    """Return the workload of a trace file, with ranks from the catalogue beside it.

    Requests of a format without adapters are dealt to the catalogue's by their rates.
    """
    from maitre.twin import Workload
    from maitre.twin.trace_file import read_trace

    found = read_trace(path, format_name)
    frame, notes = found.frame, list(found.notes)
    dealt = found.format.adapter is None and catalogue is not None
    if catalogue is not None and dealt:
        frame = frame.assign(adapter=_deal_requests(catalogue, len(frame), seed))
        notes.append(
            f"a trace of format {found.format.name} names no adapters: its requests are dealt to "
            "the catalogue's by their rates"
        )
    elif found.format.adapter is None:
        frame = frame.assign(adapter=found.format.name)
        notes.append(
            f"a trace of format {found.format.name} names no adapters: all its requests are for "
            "one; --catalogue deals them to several"
        )
    ranks: dict[str, int] | int = max_lora_rank or TRACE_RANK
    if catalogue is None:
        notes.append(f"every adapter is of rank {ranks}; --catalogue gives each its own")
    else:
        ranks = dict(zip(catalogue.names.tolist(), catalogue.ranks.tolist(), strict=True))
        unknown = sorted(set(frame["adapter"]) - set(ranks))
        if unknown:
            raise UserError(
                f"{path}: {len(unknown)} adapters of the trace are not in the catalogue "
                f"{catalogue.source}: {', '.join(unknown[:NAMES_SHOWN])}"
            )
    if duration_s is not None:
        late = frame["arrival_s"] >= duration_s
        if late.any():
            notes.append(
                f"{int(late.sum())} of {len(frame)} requests come after {duration_s:g} s: left out"
            )
            frame = frame[~late]
        if frame.empty:
            raise UserError(f"--duration {duration_s:g}: expected seconds above 0")
    workload = Workload.from_trace(frame, ranks=ranks, duration_s=duration_s)
    count = len(workload.adapters) if catalogue is None else len(catalogue)
    return _Case(workload, count, tuple(notes), dealt)


def _deal_requests(catalogue: "AdapterCatalogue", requests: int, seed: int) -> Any:
    import numpy as np

    total = catalogue.rates_rps.sum()
    shares = catalogue.rates_rps / total if total > 0 else None
    return np.random.default_rng(seed).choice(catalogue.names, size=requests, p=shares)


def _slot_rank(workload: "Workload", asked: int | None) -> int:
    """Return the rank of a slot: one that vLLM has."""
    from maitre.twin.limits import BUFFER_RANKS, buffer_rank

    if asked is None:
        return buffer_rank(max(load.rank for load in workload.adapters))
    if asked not in BUFFER_RANKS:
        ranks = ", ".join(map(str, BUFFER_RANKS))
        raise UserError(f"--max-lora-rank: expected one that vLLM has ({ranks}); got {asked}")
    return asked


def _run(
    profile: "ServerProfile", config: "ServerConfig", workload: "Workload", seed: int, *, warm: bool
) -> "SimulationResult":
    """Simulate; `warm` asks for each adapter once before the load, as the check of a plan does."""
    from maitre import twin
    from maitre.maxpack.simulate_health import warm_started

    # The command prints the result's warnings itself.
    logging.getLogger("maitre.twin").setLevel(logging.ERROR)
    if not warm:
        return twin.simulate(profile, config, workload, seed)
    longer = warm_started(profile, workload, seed)
    result = twin.simulate(profile, config, longer, seed)
    # Tokens per second of the load, without the time in which the adapters were read.
    stretch = longer.duration_s / workload.duration_s
    names = ("throughput_tps", "offered_tps", "input_tps", "output_tps")
    rates = {name: getattr(result, name) * stretch for name in names}
    return replace(result, duration_s=workload.duration_s, **rates)


def _notes_on_short_replays(
    result: "SimulationResult", health: "Health", of_trace: bool
) -> list[str]:
    """Return a note where a short replay looks starved for what is in flight at its end."""
    late = result.in_flight_end
    if not (of_trace and health.starved and late and not result.out_of_memory):
        return []
    return [
        f"{late} of {result.offered} requests are unanswered at the end of the run, after "
        f"{result.duration_s:.1f} s: --duration SECONDS lets it go on"
    ]


def _document(
    result: "SimulationResult",
    health: "Health",
    workload: "Workload",
    config: "ServerConfig",
    notes: list[str],
    ttft_slo_ms: float,
) -> dict[str, Any]:
    inputs, outputs = workload.mean_tokens()
    return {
        **result.summary(),
        "verdict": {
            "healthy": health.healthy,
            "reason": health.reason,
            "ttft_slo_ms": ttft_slo_ms,
            "worst_ttft_p99_ms": health.worst_ttft_p99_ms,
            "slow_adapters": list(health.slow_adapters),
        },
        "config": config.limits(),
        "mean_input_tokens": inputs,
        "mean_output_tokens": outputs,
        "notes": notes,
        "by_adapter": result.by_adapter().to_dict("records"),
    }


def _print(
    result: "SimulationResult",
    health: "Health",
    workload: "Workload",
    config: "ServerConfig",
    notes: list[str],
) -> None:
    inputs, outputs = workload.mean_tokens()
    figures: dict[str, Any] = {
        **{name: value for name, value in result.summary().items() if name != "warnings"},
        **config.limits(),
        "mean_input_tokens": inputs,
        "mean_output_tokens": outputs,
    }
    if figures["out_of_memory_reason"] is None:
        del figures["out_of_memory_reason"]
    rows = []
    for name, value in figures.items():
        parts = value if isinstance(value, dict) else {"": value}
        rows += [
            {"figure": f"{name} {part}".strip(), "value": _number(found)}
            for part, found in parts.items()
        ]
    print_table(rows, "Simulated server")
    for line in (*(f"warning: {warning}" for warning in result.warnings), *notes):
        print(line)
    print("healthy" if health.healthy else f"unhealthy: {health.reason}")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if value == value else "-"
    return str(value)
