"""`maitre catalogue`: make an adapter catalogue from what lies on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maitre.cli.output import check_writable
from maitre.errors import UserError

if TYPE_CHECKING:
    from maitre.serving.fleet.adapter_folder import AdapterFolder

SHOWN = 20
app = typer.Typer(help="Make an adapter catalogue.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make an adapter catalogue."""


@app.command("from-folders")
def from_folders(
    folder: Annotated[Path, typer.Argument(help="Folder with one folder per adapter.")],
    rate: Annotated[float, typer.Option(min=0.0, help="Requests per second of each adapter.")],
    base_model: Annotated[
        str | None, typer.Option(help="The base model's name; otherwise the adapters name it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; otherwise print it.")] = None,
) -> None:
    """Make a catalogue from folders in peft's format: name, base model and rank of each adapter.

    An adapter that vLLM would refuse is named, and no catalogue is made.
    """
    import pandas as pd

    from maitre.files import write_text
    from maitre.placement.catalogue import AdapterCatalogue

    if out is not None:
        check_writable(out)
    found = _adapters(folder, base_model)
    frame = pd.DataFrame(
        {
            "adapter": name,
            "base_model": base_model or _base_model_name(adapter, name),
            "rank": adapter.rank,
            "rate_rps": rate,
        }
        for name, adapter in found.items()
    )
    AdapterCatalogue.from_frame(frame, source=str(folder))
    text = frame.to_csv(index=False)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"{out}: {len(found)} adapters")


def _adapters(folder: Path, base_model: str | None) -> "dict[str, AdapterFolder]":
    """Return the adapters in a folder by name: their paths below the folder.

    Raises:
        UserError: there is none, or vLLM would refuse one.
    """
    from maitre.serving.fleet.adapter_folder import CONFIG_FILE, AdapterFolder

    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with one folder per adapter; got none")
    found: dict[str, AdapterFolder] = {}
    problems = []
    expected = frozenset([base_model] if base_model else [])
    for file in sorted(folder.rglob(CONFIG_FILE)):
        name = file.parent.relative_to(folder).as_posix()
        try:
            adapter = AdapterFolder.read(file.parent, name=name)
            adapter.check(adapter.rank, expected)
        except UserError as error:
            problems.append(str(error))
        else:
            found[name] = adapter
    if problems:
        more = f"; {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError("; ".join(problems[:SHOWN]) + more)
    if not found:
        raise UserError(f"{folder}: expected folders with {CONFIG_FILE}; got none")
    return found


def _base_model_name(adapter: "AdapterFolder", name: str) -> str:
    """Return the base model's name in the shipped profiles, or else the last part of its id."""
    from maitre.serving.fleet.adapter_folder import same_model
    from maitre.twin import ServerProfile

    named = adapter.base_model
    if not named:
        raise UserError(f"{name}: expected base_model_name_or_path; got none; give --base-model")
    known = {profile.base_model for profile in ServerProfile.shipped()}
    path_only = named.startswith(("/", ".", "~")) and "models--" not in named
    alike = (
        []
        if path_only
        else [model for model in sorted(known) if same_model(named, frozenset([model]))]
    )
    return alike[0] if alike else named.rstrip("/").rpartition("/")[2]
