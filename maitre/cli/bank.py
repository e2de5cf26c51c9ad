"""`maitre bank`: what the prompt bank holds, what it would offer a task, in and out of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maitre.cli.given_settings import settings_of
from maitre.cli.output import print_json, print_table
from maitre.cli.places import bank_url, task_folder
from maitre.tenants import may_use, owner_of_prompts

if TYPE_CHECKING:
    from maitre.bank.bank import PromptBank
    from maitre.settings import Settings

app = typer.Typer(help="The prompt bank: starts for tuning.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Bank = Annotated[str | None, typer.Option(help="Folder or URL (default: in the data home).")]
Tenant = Annotated[str | None, typer.Option(help="Show public prompts and those of this tenant.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the samples and of the random candidate.")]


@app.command("list")
def list_entries(
    context: typer.Context,
    bank: Bank = None,
    tenant: Tenant = None,
    group: Annotated[str | None, typer.Option(help="Only tasks of this group.")] = None,
    json: Json = False,
) -> None:
    """List the entries that a tenant may start from (without one: the public ones)."""
    visible = _load(settings_of(context), bank).visible_to(tenant)
    entries = [entry for entry in visible if group in (None, entry.group)]
    facts = [entry.facts() for entry in entries]
    if json:
        print_json(facts)
        return
    shown = ("entry_id", "group", "eval_accuracy", "ita", "benefit", "uses", "tenant")
    print_table([{name: _cell_text(f[name]) for name in shown} for f in facts], "Prompt bank")


@app.command()
def search(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A task folder, or a task of the tasks folder.")],
    bank: Bank = None,
    tenant: Tenant = None,
    top: Annotated[int, typer.Option(min=1, help="How many candidates to print.")] = 10,
    budget_s: Annotated[float, typer.Option(min=0.0, help="Time for the lookup.")] = 10.0,
    seed: Seed = 0,
    exhaustive: Annotated[
        bool, typer.Option(help="Score every entry, without a time limit.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the best prompts for a task to start from, with the reasons."""
    from maitre.bank.index import build_index
    from maitre.tuning.bank_entries import FEATURE, with_output_features
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.start import find_start
    from maitre.tuning.tasks import Task

    settings = settings_of(context)
    wanted = Task.load(task_folder(settings, task))
    prompts = _load(settings, bank).visible_to(tenant)
    first = next(iter(prompts), None)
    config = TuneConfig()
    if first is not None:
        virtual_tokens = first.prompt.shape[0]
        config = TuneConfig(
            virtual_tokens=virtual_tokens,
            position="prefix" if first.position == "prefix" else "suffix",
        )
    model = BaseModel.load(settings.base_model)
    prompts.check_model(model.hash, model.tokenizer_hash)
    prompts = with_output_features(prompts, model)
    found = find_start(
        model,
        wanted,
        prompts,
        build_index(prompts, FEATURE) if len(prompts) else None,
        config=config,
        seed=seed,
        tenant=tenant,
        budget_s=budget_s,
        exhaustive=exhaustive,
    )
    ranked = [vars(candidate) for candidate in found.candidates[:top]]
    if json:
        print_json(
            {
                "choice": found.choice.name,
                "why": found.why,
                "predicted_iterations": found.predicted_iterations,
                "predicted_cold_iterations": found.predicted_cold_iterations,
                "seconds": found.seconds,
                "evaluated": found.evaluated,
                "candidates": ranked,
            }
        )
        return
    print_table([{k: _cell_text(v) for k, v in c.items()} for c in ranked], f"Starts for {task}")
    print(f"{found.why}; {found.evaluated} passes in {found.seconds:.1f} s")


@app.command()
def add(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="The task that the prompt is for.")],
    description: Annotated[str, typer.Option(help="What the prompt makes the model do.")],
    prompt: Annotated[Path | None, typer.Option(help="Exported prompt: a folder or file.")] = None,
    text: Annotated[str | None, typer.Option(help="The words of a text prompt, instead.")] = None,
    bank: Bank = None,
    tenant: Annotated[str | None, typer.Option(help="Keep it private to this tenant.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which terms it may be used.")] = None,
    json: Json = False,
) -> None:
    """Add an exported prompt or a text; refuse near duplicates."""
    from maitre.bank.bank import PromptBank
    from maitre.bank.entry import BankEntry, BankError, entry_id
    from maitre.tuning.base_model import BaseModel
    from maitre.tuning.config import TuneConfig
    from maitre.tuning.export import import_prompt
    from maitre.tuning.soft_prompt import text_init

    if (prompt is None) == (text is None):
        raise BankError("give either --prompt or --text")
    tenant = owner_of_prompts(tenant)
    settings = settings_of(context)
    url = bank_url(settings, bank)
    stored = PromptBank.load(url, missing_ok=True)
    model = BaseModel.load(settings.base_model)
    position = next((entry.position for entry in stored), "suffix")
    if prompt is not None:
        read = import_prompt(prompt)
        if read.base_model_hash not in (None, model.hash):
            raise BankError(f"{prompt}: was tuned for another base model ({read.base_model})")
        if not may_use(read.tenant, tenant):
            raise BankError(f"{prompt}: is private to another tenant than {tenant or 'default'}")
        values, position = read.prompt, read.position
    else:
        first = next(iter(stored), None)
        tokens = TuneConfig().virtual_tokens if first is None else first.prompt.shape[0]
        values = text_init(model, text or "", tokens)
    if values.shape[1] != model.hidden_size:
        raise BankError(f"the prompt is {values.shape[1]} wide, {model.name} {model.hidden_size}")
    entry = BankEntry(
        entry_id=entry_id(task, values, tenant),
        prompt=values,
        task=task,
        description=description,
        base_model=model.name,
        base_model_hash=model.hash,
        tokenizer_hash=model.tokenizer_hash,
        created_at=datetime.now(UTC),
        text=text,
        tenant=tenant,
        licence=licence,
        position=position,
    )
    grown, rejected = stored.add([entry])
    if rejected:
        raise BankError(f"{entry.entry_id} was not added: {rejected[0].why}")
    PromptBank((grown[entry.entry_id],)).save(url)
    if json:
        print_json(entry.facts())
    else:
        print(
            f"Added {entry.entry_id}; {len(grown.visible_to(tenant))} prompts in the bank at {url}"
        )


@app.command()
def export(
    context: typer.Context,
    entry: Annotated[str, typer.Argument(help="The entry's id.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not be there.")],
    bank: Bank = None,
    tenant: Tenant = None,
    json: Json = False,
) -> None:
    """Write an entry as a folder: peft's format for a prefix prompt, else safetensors."""
    from maitre.tuning.export import export_prompt

    settings = settings_of(context)
    found = _load(settings, bank).visible_to(tenant)[entry]
    folder = export_prompt(
        found.prompt,
        out,
        position="prefix" if found.position == "prefix" else "suffix",
        base_model=settings.base_model,
        base_model_hash=found.base_model_hash,
        tenant=found.tenant,
    )
    files = sorted(file.name for file in folder.iterdir())
    if json:
        print_json({"entry": entry, "folder": str(folder), "files": files})
    else:
        print(f"Wrote {', '.join(files)} to {folder}")


@app.command()
def stats(
    context: typer.Context, bank: Bank = None, tenant: Tenant = None, json: Json = False
) -> None:
    """Summarise the bank: its prompts, their tasks, and the iterations that they saved."""
    visible = _load(settings_of(context), bank).visible_to(tenant)
    entries = list(visible)
    uses = sum(entry.uses for entry in entries)
    first = entries[0] if entries else None
    figures: dict[str, Any] = {
        "entries": len(entries),
        "private": sum(entry.tenant is not None for entry in entries),
        "tasks": len({entry.task for entry in entries}),
        "groups": len({entry.group for entry in entries if entry.group}),
        "base_model": first.base_model if first else None,
        "virtual_tokens": first.prompt.shape[0] if first else None,
        "position": first.position if first else None,
        "uses": uses,
        "hit_rate": visible.hit_rate(),
        "iterations_saved": visible.iterations_saved(),
        "mean_iterations_saved": visible.iterations_saved() / uses if uses else None,
    }
    if json:
        print_json(figures)
    else:
        print_table(
            [{"figure": k, "value": _cell_text(v)} for k, v in figures.items()], "Prompt bank"
        )


def _load(settings: "Settings", bank: str | None) -> "PromptBank":
    from maitre.bank.bank import PromptBank

    return PromptBank.load(bank_url(settings, bank))


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
