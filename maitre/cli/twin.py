"""`maitre twin`: what a server would do under a load, which profiles there are, fitting one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli import twin_measure
from maitre.cli.output import print_json, print_table
from maitre.errors import UserError, reading
from maitre.files import write_text

if TYPE_CHECKING:
    from maitre.twin import ServerProfile

app = typer.Typer(help="The digital twin of a multi-LoRA vLLM server.", no_args_is_help=True)

app.command("measure")(twin_measure.measure)
app.command("fit")(twin_measure.fit)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def profiles(json: Json = False) -> None:
    """List the shipped server profiles."""
    from maitre.twin import ServerProfile

    loaded = ServerProfile.shipped()
    if json:
        print_json([_described(profile) for profile in loaded])
        return
    rows = [
        {
            "profile": profile.name,
            "GPU": profile.engine.gpu,
            "engine": profile.engine.text,
            "fingerprint": profile.fingerprint(),
        }
        for profile in loaded
    ]
    print_table(rows, "Server profiles")


@app.command()
def simulate(
    profile: Annotated[str, typer.Option(help="A shipped server profile, or a file.")],
    catalogue: Annotated[
        Path | None, typer.Option(help="CSV or Parquet: adapter, rank, rate_rps.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet: arrival_s, adapter, input_tokens, output_tokens."),
    ] = None,
    max_loras: Annotated[int, typer.Option(help="GPU slots for adapters.")] = 32,
    max_lora_rank: Annotated[
        int | None, typer.Option(help="Rank of a slot; default: the largest served.")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Sequences in a batch.")] = 2048,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens in a batch.")] = 2048,
    lengths: Annotated[str, typer.Option(help="A named distribution.")] = "sharegpt",
    mean_input_tokens: Annotated[
        float | None, typer.Option(help="Mean length of a prompt, in tokens.")
    ] = None,
    mean_output_tokens: Annotated[
        float | None, typer.Option(help="Mean length of an answer, in tokens.")
    ] = None,
    cv: Annotated[float, typer.Option(help="Variation of gaps between arrivals.")] = 1.0,
    duration: Annotated[float, typer.Option(help="Simulated seconds.")] = 3600.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    json: Json = False,
) -> None:
    """Simulate one server under a catalogue of adapters, or a trace of requests."""
    from maitre import twin

    if (catalogue is None) == (trace is None):
        raise UserError("give either --catalogue or --trace")
    rank = max_lora_rank or 16
    if trace is not None:
        workload = twin.Workload.from_trace(_read(trace), ranks=rank)
    else:
        assert catalogue is not None
        loads = _adapters(_read(catalogue), str(catalogue))
        rank = max_lora_rank or max(load.rank for load in loads)
        burst = twin.Burstiness() if cv == 1.0 else twin.Burstiness("gamma", cv=cv)
        workload = twin.Workload(
            loads,
            twin.Lengths.named(lengths, mean_input_tokens, mean_output_tokens),
            duration,
            burstiness=burst,
        )
    server = twin.ServerConfig(
        max_loras=max_loras,
        max_cpu_loras=max(max_loras, len(workload.adapters)),
        max_lora_rank=rank,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    result = twin.simulate(twin.ServerProfile.load(profile), server, workload, seed)
    if json:
        rows = result.by_adapter().to_dict("records")
        print_json(_finite({**result.summary(), "by_adapter": rows}))
    else:
        _print_summary(result.summary())


@app.command()
def calibrate(
    tables: Annotated[Path, typer.Argument(help="Folder of measurement tables (Parquet).")],
    start: Annotated[str, typer.Option(help="Profile to start from, by name or file.")],
    out: Annotated[Path, typer.Option(help="Profile file to write.")],
    report: Annotated[Path, typer.Option(help="Folder for the fit report.")],
    validation: Annotated[
        list[str] | None, typer.Option(help="A scenario to keep out of the fit; repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the fitted profile; default: the start's.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model in the tables; default: the start's.")
    ] = None,
    prefill_from: Annotated[
        str | None,
        typer.Option(help="Model whose prefill steps stand in for missing ones."),
    ] = None,
    prefill_scale: Annotated[
        float, typer.Option(help="Factor on those times, such as the ratio of parameters.")
    ] = 1.0,
    fit_front: Annotated[
        bool, typer.Option("--fit-front", help="Refit the API server too, from time series.")
    ] = False,
    lengths: Annotated[str, typer.Option(help="Lengths of the runs.")] = "sharegpt",
    mean_input_tokens: Annotated[
        float, typer.Option(help="Mean length of the runs' prompts, in tokens.")
    ] = 222.4,
    mean_output_tokens: Annotated[
        float, typer.Option(help="Mean length of the runs' answers, in tokens.")
    ] = 195.0,
    rounds: Annotated[int, typer.Option(help="Rounds of simulating and refitting.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated runs.")] = 3,
    json: Json = False,
) -> None:
    """Fit a profile from measurement tables and runs, and report how well it fits.

    Nothing is written unless the fit succeeds.
    """
    from maitre.twin import ServerProfile
    from maitre.twin.calibration.calibrate import calibrate as fit_profile
    from maitre.twin.calibration.report import write_report
    from maitre.twin.calibration.runs import Traffic
    from maitre.twin.calibration.tables import prefill_ms_of, read_tables

    if out.is_dir():
        raise UserError(f"--out {out} is a folder, give a file")
    if report.exists() and not report.is_dir():
        raise UserError(f"--report {report} is a file, give a folder")
    if prefill_from is None and prefill_scale != 1.0:
        raise UserError("--prefill-scale scales --prefill-from, which is not given")
    first = ServerProfile.load(start)
    first = _renamed(first, name, base_model)
    found = fit_profile(
        read_tables(tables, first.base_model, front=fit_front),
        first,
        Traffic(lengths, mean_input_tokens, mean_output_tokens),
        validation_scenarios=validation or [],
        prefill_ms_per_step=prefill_ms_of(tables, prefill_from, prefill_scale)
        if prefill_from
        else None,
        rounds=rounds,
        seed=seed,
        progress=_print_progress,
    )
    written = write_report(found.profile, found.comparison, report)
    write_text(out, found.profile.to_yaml())
    if json:
        print_json(_finite(_fit_document(found, out, written)))
    else:
        for path in (out, *written):
            print(path)


def _described(profile: "ServerProfile") -> dict[str, Any]:
    """Return a profile for `--json`; `gpu` also stands where scripts look for it."""
    return {**profile.model_dump(mode="json"), "gpu": profile.engine.gpu}


def _renamed(profile: "ServerProfile", name: str | None, base_model: str | None) -> "ServerProfile":
    """Return the profile to start a fit from; another base model has another model id."""
    renamed = profile.model_copy(update={"name": name or profile.name})
    if base_model is None or base_model == profile.base_model:
        return renamed
    engine = profile.engine.model_copy(update={"model_id": ""})
    return renamed.model_copy(update={"base_model": base_model, "engine": engine})


def _fit_document(found: Any, out: Path, written: list[Path]) -> dict[str, Any]:
    from maitre.twin.calibration.errors_by_regime import errors

    validation = found.comparison["validation"]
    return {
        "profile": str(out),
        "fingerprint": found.profile.fingerprint(),
        "report": [str(path) for path in written],
        "fit": found.profile.fit,
        "errors": {
            "fit": errors(found.comparison[~validation]),
            "validation": errors(found.comparison[validation]),
        },
    }


def _read(path: Path) -> Any:
    import pandas as pd

    with reading(path):
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def _adapters(frame: Any, name: str) -> list[Any]:
    from maitre.twin import AdapterLoad

    for column in ("adapter", "rank", "rate_rps"):
        if column not in frame:
            raise UserError(f"{name} has no column {column!r}")
    optional = [name for name in ("mean_input_tokens", "mean_output_tokens") if name in frame]
    return [
        AdapterLoad(
            str(row["adapter"]),
            row["rank"],
            row["rate_rps"],
            **{column: row[column] for column in optional if row[column] == row[column]},
        )
        for row in frame.to_dict("records")
    ]


def _print_summary(summary: dict[str, Any]) -> None:
    rows = [
        {"figure": name, "value": f"{value:,.3f}" if isinstance(value, float) else value}
        for name, value in summary.items()
    ]
    print_table(rows, "Simulated server")


def _finite(document: Any) -> Any:
    """The document with NaN as null, which JSON has no word for."""
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_finite(value) for value in document]
    if hasattr(document, "item"):
        document = document.item()
    return None if isinstance(document, float) and document != document else document


def _print_progress(done: int, total: int, note: str = "") -> None:
    if done % 20 == 0 or done == total:
        print(f"{note}: {done}/{total}", file=sys.stderr)
