"""`maitre cluster`: simulate a policy, compare policies, generate workloads, verify a log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from maitre.cli import replay_tick
from maitre.cli.output import check_writable, print_json, print_table
from maitre.errors import UserError

app = typer.Typer(
    help="Simulate the tuning cluster, compare policies, check event logs.", no_args_is_help=True
)

JobsOption = Annotated[Path, typer.Option("--jobs", help="jobs.csv")]
ClusterOption = Annotated[Path, typer.Option("--cluster", help="cluster.yaml")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A policy's parameter, NAME=NUMBER; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
app.command("replay")(replay_tick.replay)


@app.command()
def simulate(
    jobs: JobsOption,
    cluster: ClusterOption,
    policy: Annotated[str, typer.Option(help="Its name; `maitre cluster compare` lists them.")],
    out: Annotated[Path | None, typer.Option(help="Write events.csv here.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the worker failures.")] = 0,
    parameters: SetOption = None,
    figure: Annotated[Path | None, typer.Option(help="Timeline of GPUs, PNG.")] = None,
    json: JsonOption = False,
) -> None:
    """Run one policy on a job list; report violations and cost; write the event log."""
    from maitre.scheduling import cluster as clusters
    from maitre.scheduling import events, policies, simulator
    from maitre.scheduling import jobs as job_lists
    from maitre.scheduling.replay import replay

    for path in (out, figure):
        if path is not None:
            check_writable(path)
    described = clusters.read_cluster(cluster)
    listed = job_lists.read_jobs(jobs, described)
    chosen = policies.named_policy(policy, **_parameters(parameters))
    run = simulator.simulate(listed, described, chosen, seed=seed)
    if out is not None:
        events.write_events(out, run.events)
    if figure is not None:
        from maitre.scheduling.figures import draw_timeline

        seen = replay(run.events, listed, described)
        draw_timeline({policy: (seen.held, seen.used)}, described.gpus, figure)
    _report([_rounded_row(run.outcome.row())], json, f"{policy} on {jobs.name}")


@app.command()
def compare(
    jobs: JobsOption,
    cluster: ClusterOption,
    policy: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all of them by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the worker failures.")] = 0,
    bound: Annotated[bool, typer.Option(help="Also the clairvoyant bound.")] = True,
    figures: Annotated[Path | None, typer.Option(help="Folder for two PNGs.")] = None,
    json: JsonOption = False,
) -> None:
    """Run several policies on the same jobs, side by side, with the clairvoyant bound."""
    from maitre.scheduling import cluster as clusters
    from maitre.scheduling import jobs as job_lists
    from maitre.scheduling import policies, simulator
    from maitre.scheduling.bound import clairvoyant_bound
    from maitre.scheduling.replay import replay

    described = clusters.read_cluster(cluster)
    listed = job_lists.read_jobs(jobs, described)
    chosen = [policies.named_policy(name) for name in policy or policies.POLICIES]
    if figures is not None:
        # Before a long run rather than after it.
        figures.mkdir(parents=True, exist_ok=True)
    rows, timelines, points = [], {}, {}
    for one in chosen:
        run = simulator.simulate(listed, described, one, seed=seed)
        row = _rounded_row(run.outcome.row())
        if bound:
            least_hours = clairvoyant_bound(listed, described, run.outcome.violations)
            row["bound_gpu_hours"] = round(least_hours, 3)
        rows.append(row)
        points[one.name] = [(run.outcome.cost, run.outcome.violation_rate)]
        if figures is not None:
            seen = replay(run.events, listed, described)
            timelines[one.name] = (seen.held, seen.used)
    if figures is not None:
        from maitre.scheduling.figures import draw_timeline, draw_violations_against_cost

        draw_timeline(timelines, described.gpus, figures / "timeline.png")
        draw_violations_against_cost(points, figures / "violations-cost.png")
    _report(rows, json, f"policies on {jobs.name}")


@app.command()
def generate(
    trace: Annotated[
        Path, typer.Option(help="Table with submission_time: seconds or dates; CSV or Parquet.")
    ],
    cluster: ClusterOption,
    out: Annotated[Path, typer.Option(help="Write jobs.csv here.")],
    start_day: Annotated[float, typer.Option(help="Window start, days after the first.")] = 0.0,
    days: Annotated[float, typer.Option(help="Window length, days.")] = 1.0,
    load: Annotated[str, typer.Option(help="low, medium, high, or a number.")] = "medium",
    ita: Annotated[
        Path | None, typer.Option(help="CSV of measured iterations_cold,iterations_bank.")
    ] = None,
    slack: Annotated[
        list[float] | None, typer.Option(help="Repeatable; default 0.6 1.0 1.5.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="submission_time=NAME: what the trace calls that column."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Make jobs.csv from a window of an arrival trace."""
    from maitre.scheduling import cluster as clusters
    from maitre.scheduling import workload
    from maitre.scheduling.jobs import write_jobs

    check_writable(out)
    described = clusters.read_cluster(cluster)
    options = workload.WorkloadOptions(
        load=_load(load),
        slacks=tuple(slack) if slack else workload.WorkloadOptions().slacks,
        ita=workload.read_ita(ita) if ita else workload.ItaDistribution(),
    )
    arrivals = workload.window(
        workload.read_arrivals(trace, _columns(columns or [])), start_day, days
    )
    jobs = workload.generate(arrivals, described, options, seed)
    write_jobs(out, jobs)
    summary = {"jobs": len(jobs), "last_submitted_s": jobs[-1].submitted_s, "out": str(out)}
    _report([summary], json, "generated")


def _columns(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not (name and value):
            raise UserError(f"--columns: expected submission_time=NAME; got {text!r}")
    return {name: value for name, _, value in pairs}


@app.command()
def verify(
    log: Annotated[Path, typer.Argument(help="events.csv")],
    jobs: JobsOption,
    cluster: ClusterOption,
    json: JsonOption = False,
) -> None:
    """Replay an event log against the contract; exit code 1 where it breaks a rule."""
    from maitre.scheduling import cluster as clusters
    from maitre.scheduling import events
    from maitre.scheduling import jobs as job_lists
    from maitre.scheduling.replay import replay

    described = clusters.read_cluster(cluster)
    listed = job_lists.read_jobs(jobs, described)
    result = replay(events.read_events(log), listed, described)
    row = {
        "jobs": result.jobs,
        "finished": result.finished,
        "late": result.late,
        "rejected": result.rejected,
        "unfinished": result.unfinished,
        "violations": result.violations,
        "gpu_hours": result.gpu_hours,
        "cost": result.cost,
    }
    if json:
        print_json({**row, "problems": result.problems})
    else:
        print_table([_rounded_row(row)], f"replay of {log.name}")
        for problem in result.problems[:20]:
            typer.echo(problem)
        typer.echo(f"{len(result.problems)} broken rules" if result.problems else "no broken rule")
    if result.problems:
        raise typer.Exit(1)


def _report(rows: Sequence[dict[str, Any]], json: bool, title: str) -> None:
    if json:
        print_json(rows[0] if len(rows) == 1 else rows)
        return
    shown = (
        "policy",
        "jobs",
        "violations",
        "gpu_hours",
        "cost",
        "idle_gpu_hours",
        "bound_gpu_hours",
        "last_submitted_s",
        "out",
    )
    print_table([_terminal_row(row, shown) for row in rows], title)


def _terminal_row(row: dict[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """Return the columns that fit a terminal; `--json` prints all of them."""
    return {
        key.replace("gpu_hours", "GPU-h"): f"{row[key]:.2f}"
        if isinstance(row[key], float)
        else row[key]
        for key in shown
        if key in row
    }


def _rounded_row(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(v, 6) if isinstance(v, float) else v for key, v in row.items()}


def _parameters(given: list[str] | None) -> dict[str, float | bool]:
    parsed: dict[str, float | bool] = {}
    for item in given or []:
        name, _, text = item.partition("=")
        try:
            parsed[name] = text == "true" if text in ("true", "false") else float(text)
        except ValueError:
            raise UserError(f"--set {item}: expected NAME=NUMBER or NAME=true|false") from None
    return parsed


def _load(text: str) -> float:
    from maitre.scheduling.workload import LOADS

    if text in LOADS:
        return LOADS[text]
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--load {text}: expected {', '.join(LOADS)} or a number") from None
