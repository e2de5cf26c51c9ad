"""`maitre deploy`: apply a placement plan on this machine or a cluster, or render it."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli.given_settings import settings_of
from maitre.cli.output import print_json, print_table
from maitre.errors import UserError, reading
from maitre.tenants import DEFAULT_TENANT, may_use

if TYPE_CHECKING:
    from maitre.placement.plan import PlacementPlan
    from maitre.serving.fleet.fleet import LocalFleet
    from maitre.settings import Settings

SHOWN = 20
PARTIAL = 3
"""Exit status when some steps failed and the others were done."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ServingFolder = Annotated[Path | None, typer.Option(help="Folder of fleet.json and routes.json.")]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Accept a plan that fails its check.")]
app = typer.Typer(
    help="Apply a placement plan to vLLM servers, or render it.", no_args_is_help=True
)


@app.command()
def local(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan, as `maitre place --json` prints it.")],
    adapters: Annotated[Path, typer.Option(help="Folder with one folder per adapter.")],
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a base model; repeatable.")
    ] = None,
    folder: ServingFolder = None,
    dtype: Annotated[str, typer.Option(help="The servers' dtype.")] = "bfloat16",
    max_model_len: Annotated[int, typer.Option(help="The servers' --max-model-len.")] = 2048,
    kv_cache_gib: Annotated[int, typer.Option(help="KV cache of each CPU server, in GiB.")] = 1,
    prompt_embeds: Annotated[bool, typer.Option(help="Also serve tuned soft prompts.")] = False,
    any_base_model: Annotated[
        bool, typer.Option("--any-base-model", help="Accept adapters of other base models.")
    ] = False,
    unsafe: Unsafe = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the steps.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Apply a plan to vLLM servers of this machine: start servers, load and unload adapters.

    To apply the same plan again changes nothing. A plan with an adapter that vLLM would refuse is
    refused as a whole. The exit status is 3 when some steps failed and the others were done.
    """
    from maitre.serving.fleet.local_server import LaunchOptions

    launch = LaunchOptions(
        "", "", dtype=dtype, max_model_len=max_model_len, kv_cache_gib=kv_cache_gib,
        prompt_embeds=prompt_embeds,
    )  # fmt: skip
    wanted = _read_plan(plan, unsafe=unsafe)
    settings = settings_of(context)
    fleet = _fleet(settings, folder, adapters, model or [], launch, needs_vllm=not dry_run)
    fleet.options = replace(fleet.options, allow_other_base_models=any_base_model)
    if refused := fleet.check_adapters(wanted):
        reasons = sorted(set(refused.values()))
        more = f"; {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        raise UserError(f"the plan cannot be served: {'; '.join(reasons[:SHOWN])}{more}")
    if dry_run:
        steps = [asdict(step) for step in fleet.steps_to(wanted)]
        print_json(steps) if json else print_table(steps, "Steps")
        return
    done = fleet.apply(wanted, (lambda _: None) if json else lambda text: print(text, flush=True))
    document = {
        "done": len(done.done),
        "failed": [str(failure) for failure in done.failed],
        "left_out": [asdict(step) for step in done.left_out],
        "routes": str(fleet.routes_path),
    }
    if json:
        print_json(document)
    else:
        for failure in done.failed:
            print(f"failed: {failure}")
        print(f"{len(done.done)} steps done, {len(done.failed)} failed; {fleet.routes_path}")
    if not done.complete:
        raise typer.Exit(PARTIAL)


@app.command()
def stop(
    context: typer.Context,
    folder: ServingFolder = None,
) -> None:
    """Stop every server that `local` started."""
    from maitre.serving.fleet.local_server import LaunchOptions

    settings = settings_of(context)
    fleet = _fleet(settings, folder, Path(), [], LaunchOptions("", ""), needs_vllm=False)
    count = len(fleet.known())
    fleet.stop_all()
    print(f"{count} servers stopped")


@app.command()
def render(
    plan: Annotated[Path, typer.Argument(help="The plan, as `maitre place --json` prints it.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[  # noqa: A002 the option's name
        str, typer.Option(help="manifests, aibrix, production-stack or helm.")
    ] = "manifests",
    image: Annotated[
        str | None, typer.Option(help="Image of vLLM (default: the server profile's).")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the servers.")] = "maitre",
    claim: Annotated[
        str, typer.Option(help="PersistentVolumeClaim that holds the adapters.")
    ] = "maitre-adapters",
    model_id: Annotated[
        list[str] | None,
        typer.Option(help="BASE_MODEL=ID that vLLM loads (default: the profile's); repeatable."),
    ] = None,
    unsafe: Unsafe = False,
) -> None:
    """Write a plan as Kubernetes manifests, or for an operator.

    Files of an earlier rendering that the plan no longer needs are removed. Other files stay.
    """
    from maitre.serving.manifests.kubernetes import DeploymentOptions
    from maitre.serving.manifests.operators import render_as
    from maitre.serving.manifests.rendered_folder import write_rendered

    wanted = _read_plan(plan, unsafe=unsafe)
    options = DeploymentOptions(
        namespace=_dns_label("--namespace", namespace),
        image=image or "",
        adapters_claim=_dns_label("--claim", claim),
        model_ids=_model_ids(model_id or [], {server.base_model for server in wanted.servers}),
    )
    files = render_as(format, wanted, options)
    removed, others = write_rendered(out, files)
    for name in files:
        print(out / name)
    for name in removed:
        print(f"removed {out / name}: the plan no longer needs it")
    for name in others:
        print(f"left {out / name}: it was not rendered here")


@app.command()
def kubernetes(
    folder: Annotated[Path, typer.Argument(help="A kustomize folder that `render` wrote.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the diff and change nothing.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=1, help="Seconds for each new server to become ready.")
    ] = 1800,
    remove_first: Annotated[
        bool,
        typer.Option(
            "--remove-first", help="Remove old servers before new ones serve, to free their GPUs."
        ),
    ] = False,
) -> None:
    """Apply rendered manifests to the cluster of the current kubectl context.

    Servers of an earlier plan are removed when the new ones are ready.
    """
    from maitre.serving.manifests.kubectl import apply_folder

    if not (folder / "kustomization.yaml").is_file():
        raise UserError(
            f"{folder}: expected a kustomize folder; kustomization.yaml is missing; "
            "`maitre deploy render` writes one"
        )
    done = apply_folder(folder, dry_run=dry_run, rollout_s=wait, remove_first=remove_first)
    print(done.text, end="")


@app.command()
def proxy(
    context: typer.Context,
    folder: ServingFolder = None,
    port: Annotated[int, typer.Option(help="Port to listen on (127.0.0.1).")] = 8000,
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a base model; repeatable.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a tuned prompt, or NAME=models:/...; repeatable."),
    ] = None,
    tenant: Annotated[
        str, typer.Option(help="Serve public prompts and those of this tenant.")
    ] = DEFAULT_TENANT,
    max_body_mib: Annotated[int, typer.Option(min=1, help="Largest request body, in MiB.")] = 64,
) -> None:
    """Run the proxy: one address for all servers; requests go to the servers of their model."""
    import uvicorn

    from maitre.serving.fleet.local_server import LaunchOptions
    from maitre.serving.proxy.embeds import PromptEmbedder
    from maitre.serving.proxy.proxy import proxy_app
    from maitre.serving.proxy.request_body import BodyLimits
    from maitre.serving.proxy.routes import RoutedPrompt

    settings = settings_of(context)
    fleet = _fleet(settings, folder, Path(), model or [], LaunchOptions("", ""), needs_vllm=False)
    paths = _pairs("--model", model or [])
    if prompt:
        if len(paths) != 1:
            raise UserError(
                f"--prompt: expected exactly one --model, the prompts' base model; got {len(paths)}"
            )
        base = next(iter(paths))
        found = {
            name: _prompt_folder(settings, fleet.folder / "prompts", text, tenant)
            for name, text in _pairs("--prompt", prompt).items()
        }
        fleet.route_prompts({name: RoutedPrompt(path, base) for name, path in found.items()})

    def embedder(base: str) -> PromptEmbedder:
        return PromptEmbedder.of_folder(Path(paths.get(base, base)))

    limits = BodyLimits(max_bytes=max_body_mib * 1024 * 1024)
    app = proxy_app(fleet.routes_path, embedder, limits=limits)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _prompt_folder(settings: "Settings", registered: Path, text: str, tenant: str) -> str:
    """Return the folder of a tuned prompt; fetch a registered version into `registered`.

    Raises:
        UserError: the folder holds no prompt, the registry does not have this version, or the
            prompt is private to another tenant.
    """
    from maitre.serving.proxy.embeds import read_tuned_prompt
    from maitre.tuning.config import TuningInputError

    folder = Path(text)
    if text.startswith("models:/"):
        from maitre.tracking.store import TrackingError, TrackingStore

        tracking = TrackingStore(settings.mlflow_tracking_uri, settings.mlflow_ui_url)
        try:
            folder = tracking.fetch(text, registered, tenant) / "prompt"
        except TrackingError as error:
            raise UserError(str(error)) from None
    try:
        stored = read_tuned_prompt(folder)
    except TuningInputError as error:
        raise UserError(f"--prompt {text}: {error}") from None
    if not may_use(stored.tenant, tenant):
        raise UserError(f"--prompt {text}: is private to another tenant than {tenant}")
    return str(folder.resolve())


def _read_plan(path: Path, *, unsafe: bool) -> "PlacementPlan":
    """Read a plan; refuse one that fails its check unless `unsafe`."""
    from maitre.placement.plan import PlacementPlan

    if not path.is_file():
        raise UserError(f"{path}: expected a plan of `maitre place --json`; no such file")
    with reading(path):
        text = path.read_text()
    found = PlacementPlan.from_json(text)
    if found.evidence.unsound and not unsafe:
        servers = "; ".join(f"{name}: {why}" for name, why in found.evidence.unsound.items())
        raise UserError(
            f"{path}: the plan fails its check ({servers}); place again with more moves, or deploy "
            "it nevertheless with --unsafe"
        )
    return found


def _fleet(
    settings: "Settings",
    folder: Path | None,
    adapters: Path,
    models: list[str],
    launch: Any,
    *,
    needs_vllm: bool,
) -> "LocalFleet":
    from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
    from maitre.serving.fleet.local_server import vllm_python

    paths = {settings.base_model_name: settings.base_model, **_pairs("--model", models)}
    python = vllm_python(settings.vllm_venv) if needs_vllm else Path("python")
    options = FleetOptions(python, adapters, paths, launch)
    return LocalFleet(folder or settings.scratch / "serving", options)


def _dns_label(option: str, text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise UserError(f"{option}: expected lower-case letters, digits and hyphens; got {text!r}")
    return text


def _model_ids(texts: list[str], base_models: set[str]) -> dict[str, str]:
    found = _pairs("--model-id", texts, "BASE_MODEL=ID")
    if unknown := sorted(set(found) - base_models):
        raise UserError(
            f"--model-id: expected a base model of the plan, {', '.join(sorted(base_models))}; "
            f"got {unknown[0]}"
        )
    return found


def _pairs(option: str, texts: list[str], form: str = "NAME=FOLDER") -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise UserError(f"{option}: expected {form}; got {json.dumps(text)}")
        pairs[name] = value
    return pairs
