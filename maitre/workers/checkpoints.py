"""Checkpoints of runs: one file per lease, stored where the next worker finds it.

A worker writes to a local file of its own. Where the workers share no disk, each new checkpoint is
also copied to the data home (an object store through fsspec). Every lease has its own file, so a
worker that has lost its run cannot overwrite the checkpoint of its successor.
"""

import posixpath
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import fsspec

from maitre.files import replacing_file, write_stored
from maitre.settings import Settings

_NAME = re.compile(r"(?P<run_id>.+)-(?P<number>\d+)\.safetensors")


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints under `root` (a folder or an fsspec URL), written first in the local `folder`."""

    root: str
    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the store of the settings' workers."""
        return cls(f"{settings.home}/checkpoints", settings.scratch / "checkpoints")

    def prepare(self, run_id: str, number: int) -> Path:
        """Return the file for the op of lease `number`, with the last checkpoint before it."""
        path = self.folder / _name(run_id, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = [n for n in self._numbers(run_id) if n < number]
        if earlier:
            filesystem, folder = fsspec.core.url_to_fs(self.root)
            source = posixpath.join(folder, _name(run_id, max(earlier)))
            with replacing_file(path) as unfinished:
                filesystem.get_file(source, str(unfinished))
        return path

    def copier(self, run_id: str, number: int, check: Callable[[], None]) -> Callable[[], None]:
        """Return a function to call after every step: it copies a new checkpoint to `root`.

        It calls `check` before each copy, which raises when another worker holds the run by now.
        """
        path = self.folder / _name(run_id, number)
        last_written = _written_ns(path)

        def copy_if_new() -> None:
            nonlocal last_written
            written = _written_ns(path)
            if written != last_written:
                last_written = written
                check()
                self._copy(path)

        return copy_if_new

    def remove(self, run_id: str) -> None:
        """Delete the checkpoints of a run that is over."""
        filesystem, folder = fsspec.core.url_to_fs(self.root)
        for number in self._numbers(run_id):
            # A worker and the scheduler may both find that the run is over.
            with suppress(FileNotFoundError):
                filesystem.rm_file(posixpath.join(folder, _name(run_id, number)))
        for path in self.folder.glob(f"{run_id}-*.safetensors"):
            path.unlink(missing_ok=True)

    def _copy(self, path: Path) -> None:
        filesystem, folder = fsspec.core.url_to_fs(self.root)
        if Path(folder).absolute() == self.folder.absolute():
            return
        write_stored(filesystem, posixpath.join(folder, path.name), path.read_bytes())

    def _numbers(self, run_id: str) -> list[int]:
        """Return the lease numbers of which the run has checkpoints."""
        filesystem, folder = fsspec.core.url_to_fs(self.root)
        if not filesystem.exists(folder):
            return []
        names = (posixpath.basename(file) for file in filesystem.ls(folder, detail=False))
        found = (match for name in names if (match := _NAME.fullmatch(name)))
        return [int(match["number"]) for match in found if match["run_id"] == run_id]


def _name(run_id: str, number: int) -> str:
    return f"{run_id}-{number}.safetensors"


def _written_ns(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None
