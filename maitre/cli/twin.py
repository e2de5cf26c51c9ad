"""`maitre twin`: simulate a server under a load, list profiles, measure a server and fit one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli import twin_measure, twin_simulate
from maitre.cli.output import print_json, print_table
from maitre.errors import UserError
from maitre.files import write_text

if TYPE_CHECKING:
    from maitre.twin import ServerProfile

app = typer.Typer(help="The digital twin of a multi-LoRA vLLM server.", no_args_is_help=True)

app.command("simulate")(twin_simulate.simulate)
app.command("measure")(twin_measure.measure)
app.command("fit")(twin_measure.fit)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def profiles(json: Json = False) -> None:
    """List the shipped server profiles."""
    from maitre.twin import ServerProfile

    loaded = ServerProfile.shipped()
    if json:
        print_json([_profile_document(profile) for profile in loaded])
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
    first = _fit_start(first, name, base_model)
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
        print_json(_fit_document(found, out, written))
    else:
        for path in (out, *written):
            print(path)


def _profile_document(profile: "ServerProfile") -> dict[str, Any]:
    """Return a profile for `--json`; `gpu` also stands where scripts look for it."""
    return {**profile.model_dump(mode="json"), "gpu": profile.engine.gpu}


def _fit_start(
    profile: "ServerProfile", name: str | None, base_model: str | None
) -> "ServerProfile":
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


def _print_progress(done: int, total: int, note: str = "") -> None:
    if done % 20 == 0 or done == total:
        print(f"{note}: {done}/{total}", file=sys.stderr)
