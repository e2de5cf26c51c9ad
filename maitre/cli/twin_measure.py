"""`maitre twin measure` and `fit`: a profile of a real server, from its own answers."""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maitre.cli.output import print_json
from maitre.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def measure(
    url: Annotated[str, typer.Option(help="Address of a vLLM server, http://host:port.")],
    adapters: Annotated[
        Path, typer.Option(help="Folder with one folder per adapter; the server must see it too.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the samples; must hold none yet.")],
    profile: Annotated[
        Path | None, typer.Option(help="Profile file to write when all is measured.")
    ] = None,
    name: Annotated[str, typer.Option(help="The profile's name.")] = "measured",
    budget: Annotated[float, typer.Option(help="Seconds to measure for.")] = 600.0,
    max_lora_rank: Annotated[int, typer.Option(help="The server's --max-lora-rank.")] = 16,
    max_num_seqs: Annotated[int, typer.Option(help="The server's --max-num-seqs.")] = 64,
    max_num_batched_tokens: Annotated[
        int, typer.Option(help="The server's --max-num-batched-tokens.")
    ] = 2048,
    input_tokens: Annotated[
        int, typer.Option(help="Mean length of the loads' prompts, in tokens.")
    ] = 96,
    output_tokens: Annotated[
        int, typer.Option(help="Mean length of the loads' answers, in tokens.")
    ] = 32,
    gpu: Annotated[str, typer.Option(help="What the server runs on.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same requests.")] = 0,
    json: Json = False,
) -> None:
    """Measure a running server: bursts, loads, and a validation load that no fit sees.

    Every point is written to disk as soon as it ends. If the server ends first, the samples so far
    stay and the exit status is 1.
    """
    from maitre.serving.client import VllmClient
    from maitre.serving.fleet.adapter_folder import adapter_rank
    from maitre.serving.measure import run as shell
    from maitre.serving.measure.samples_folder import Measurement
    from maitre.twin.fitting.fit import ProfileIdentity

    folders = {path.name: path for path in sorted(adapters.glob("*")) if path.is_dir()}
    if not folders:
        raise UserError(f"--adapters {adapters}: holds no adapter folders")
    ranks = {adapter: adapter_rank(folder) for adapter, folder in folders.items()}
    if max(ranks.values()) > max_lora_rank:
        largest = max(ranks, key=lambda key: ranks[key])
        raise UserError(
            f"{largest}: rank {ranks[largest]} is above --max-lora-rank {max_lora_rank}"
        )
    with VllmClient(url) as client:
        version, base_model = client.version(), client.models()[0]
        took_ms = shell.load_adapters(client, folders)
        client.complete(next(iter(folders)), [1000, 1001], max_tokens=2)
        server = shell.describe_server(client, max_num_seqs, max_num_batched_tokens, max_lora_rank)
        block_tokens = client.metrics().block_tokens or 16
    loads_ms = tuple((ranks[adapter], round(ms, 2)) for adapter, ms in took_ms.items())
    about: dict[str, Any] = {
        "name": name,
        "base_model": base_model,
        "gpu": gpu or f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "engine": f"vLLM {version}",
        "block_tokens": block_tokens,
        "adapter_load_ms": loads_ms,
    }
    measurement = Measurement(out)
    measurement.begin(server, about)
    measured = shell.measure(
        url, server,
        shell.MeasureOptions(ranks, base_model, budget, input_tokens, output_tokens, seed),
        ProfileIdentity(**about), measurement, progress=_print_progress,
    )  # fmt: skip
    document: dict[str, Any] = {
        "samples": str(out),
        "points": measured.points,
        "requests": measured.requests,
        "seconds": round(measured.seconds, 1),
        "lateness_ms": {key: round(value, 2) for key, value in measured.lateness_ms.items()},
    }
    if measured.died:
        print_json({**document, "died": measured.died}) if json else _print_progress(str(document))
        print(f"maitre: {measured.died}; what was measured is in {out}", file=sys.stderr)
        raise typer.Exit(1)
    document |= _fit_or_compare(measurement, profile)
    _print(document, json)
    kind = name.replace("/", "-")
    _print_progress(
        f"for Dagster: job take_measurements, partition {kind}, samples {out.resolve()}"
    )


def fit(
    samples: Annotated[Path, typer.Argument(help="Folder that `measure` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Profile file to write.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Compare this profile instead of fitting one.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write the fit, point by point, as Markdown.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit a profile to samples; report its errors on their loads."""
    from maitre.serving.measure.samples_folder import Measurement

    _print(_fit_or_compare(Measurement(samples), out, against, report), json)


def _fit_or_compare(
    measurement: Any, out: Path | None, against: str | None = None, report: Path | None = None
) -> dict[str, Any]:
    """Fit (or load) the profile, compare it on the measured loads, write it if it is wanted."""
    from maitre.files import write_text
    from maitre.twin.fitting.fidelity import compare_loads, errors_by_role, fit_and_compare
    from maitre.twin.profile import ServerProfile

    samples, server = measurement.read(), measurement.server()
    if against:
        profile = ServerProfile.load(against)
        comparison = compare_loads(profile, samples, server)
    else:
        profile, comparison = fit_and_compare(samples, server, measurement.identity())
    if out is not None:
        write_text(out, profile.to_yaml())
    if report is not None:
        from maitre.twin.fitting.report import fit_report

        write_text(report, fit_report(profile, samples, server, comparison))
    return {
        "profile": str(out) if out else profile.name,
        "fingerprint": profile.fingerprint(),
        "step_ms": profile.step.model_dump(),
        "api_ms": profile.api.model_dump(),
        "loading_ms": profile.loading.model_dump(),
        "fit": profile.fit,
        "errors": errors_by_role(comparison),
        "loads": comparison.round(3).to_dict("records"),
    }


def _print(document: dict[str, Any], json: bool) -> None:
    from maitre.cli.output import print_table

    if json:
        print_json(document)
        return
    shown = ("point", "requests", "offered_tps", "throughput_tps", "throughput_tps_predicted",
             "itl_ms", "itl_ms_predicted", "ttft_ms", "ttft_ms_predicted", "starved",
             "starved_predicted")  # fmt: skip
    print_table([{key: row[key] for key in shown} for row in document["loads"]], "Measured loads")
    for role, errors in document["errors"].items():
        print_table([{"figure": k, "value": v} for k, v in errors.items()], f"Twin on {role} loads")
    print(f"profile {document['profile']}, fingerprint {document['fingerprint']}")


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
