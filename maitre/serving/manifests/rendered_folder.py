"""A folder of rendered files: rendered again, it holds no file of an earlier plan."""

import json
from collections.abc import Mapping
from pathlib import Path

from maitre.errors import UserError, reading
from maitre.files import write_text

LIST = ".maitre-rendered.json"
"""The names of the files that the last rendering wrote."""


def write_rendered(folder: Path, files: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Write the files, remove those of the last rendering that are not among them.

    Returns:
        The names of the removed files, and of the other files there, which stay.

    Raises:
        UserError: the list of the last rendering is damaged; nothing is written then.
    """
    before = _last_rendering(folder)
    for name, text in files.items():
        write_text(folder / name, text)
    # Both lists count until the old files are gone: an interrupted run leaves none behind.
    write_text(folder / LIST, json.dumps(sorted({*before, *files})) + "\n")
    removed = sorted(name for name in before - set(files) if (folder / name).is_file())
    for name in removed:
        (folder / name).unlink()
    write_text(folder / LIST, json.dumps(sorted(files)) + "\n")
    others = {path.name for path in folder.iterdir()} - set(files) - {LIST}
    return removed, sorted(others)


def _last_rendering(folder: Path) -> set[str]:
    path = folder / LIST
    if not path.is_file():
        return set()
    with reading(path):
        names = json.loads(path.read_text(encoding="utf-8"))
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    # A name that leads out of the folder is not ours.
    if not is_list or any(Path(name).name != name for name in names):
        raise UserError(f"{path}: expected a list of file names; delete the file to start anew")
    return set(names)
