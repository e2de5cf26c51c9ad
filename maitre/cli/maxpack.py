"""`maitre maxpack`: traces, the capacity model, and what it predicts."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from maitre.cli.output import check_writable, print_json, print_table
from maitre.errors import reading
from maitre.files import replacing_file

app = typer.Typer(help="The learned capacity model of a server.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Profile = Annotated[str, typer.Option(help="A shipped server profile, or a file.")]


@app.command()
def traces(
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    profile: Profile,
    points: Annotated[int, typer.Option(help="Configurations to simulate.")] = 1000,
    duration: Annotated[float, typer.Option(help="simulated seconds of each.")] = 3600.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same traces.")] = 0,
    json: Json = False,
) -> None:
    """Simulate designed configurations in the twin."""
    from maitre.maxpack.design import design
    from maitre.maxpack.traces import make_traces
    from maitre.twin import ServerProfile

    check_writable(out)
    server_profile = ServerProfile.load(profile)
    frame = make_traces(
        server_profile, design(server_profile, points, seed), duration, seed, _print_progress
    )
    with replacing_file(out) as unfinished:
        frame.to_parquet(unfinished)
    found = {
        "traces": len(frame),
        "file": str(out),
        "profile_fingerprint": server_profile.fingerprint(),
        **{
            f"{name}_share": round(float(frame[name].mean()), 4)
            for name in ("healthy", "starved", "out_of_memory")
        },
    }
    if json:
        print_json(found)
    else:
        print(f"{len(frame)} traces in {out}")


@app.command()
def fit(
    traces: Annotated[Path, typer.Argument(help="Parquet file of traces.")],
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
    held_out: Annotated[float, typer.Option(help="Part of the traces kept for scoring.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the fit.")] = 0,
    ttft_slo: Annotated[
        float | None,
        typer.Option(
            help="Objective for the 99th percentile of the time to first token, in ms; "
            "default: the one that the traces were judged at."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fit the model, score it on held-out traces, and save it."""
    import pandas as pd

    from maitre.maxpack.evaluate import evaluate
    from maitre.maxpack.fit import fit_model
    from maitre.maxpack.split import split_traces
    from maitre.maxpack.traces import at_objective

    check_writable(out, folder=True)
    with reading(traces):
        frame = pd.read_parquet(traces)
    if ttft_slo is not None:
        frame = at_objective(frame, ttft_slo)
    training, test = split_traces(frame, held_out, seed)
    model = fit_model(training, seed)
    scores = evaluate(model, test)
    model.save(out)
    if json:
        print_json(scores.to_dict())
    else:
        print_table(
            [{"score": k, "value": round(v, 4)} for k, v in scores.to_dict().items()], str(out)
        )


@app.command()
def predict(
    catalogue: Annotated[Path, typer.Argument(help="The adapters of one server.")],
    profile: Profile,
    model: Annotated[Path | None, typer.Option(help="Folder of a capacity model.")] = None,
    json: Json = False,
) -> None:
    """Say whether one server sustains these adapters, and how it should be configured."""
    from maitre.maxpack.model import MaxpackModel
    from maitre.maxpack.recommend import recommend_server
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.twin import ServerProfile

    server_profile = ServerProfile.load(profile)
    adapters = AdapterCatalogue.read(
        catalogue,
        base_models={server_profile.base_model},
        max_rank=server_profile.valid.max_lora_rank[1],
    )
    found = recommend_server(
        adapters.loads(), server_profile, model=MaxpackModel.load(model) if model else None
    )
    if json:
        print_json(found.to_dict())
        return
    print(found.reason)
    print(f"risk of an unhealthy server: {found.risk:.4f}")


def _print_progress(done: int, total: int, _note: str = "") -> None:
    if done == total or done % max(1, total // 20) == 0:
        print(f"{done}/{total}", file=sys.stderr)
