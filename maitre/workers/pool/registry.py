"""The workers of one machine: one file per worker in the data home."""

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from maitre.errors import UserError, reading
from maitre.files import create_text, write_text
from maitre.processes.identity import identity_of, is_alive

_FAILURE = "last-failure-"
_log = logging.getLogger(__name__)


class RegistrationError(UserError):
    """A file in the workers' folder is not a worker's; the message names it and the reason."""


@dataclass(frozen=True)
class RegisteredWorker:
    """A worker process of this machine at its registration."""

    name: str
    url: Annotated[str, Field(pattern=r"^(http://\S+)?$")]
    base_model: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    identity: str | None = None

    def is_alive(self) -> bool:
        """Return whether the process that was registered still runs."""
        return is_alive(self.pid, self.identity)


_REGISTRATION = TypeAdapter(RegisteredWorker)


@dataclass(frozen=True)
class WorkerRegistry:
    """The files in `<home>/workers`."""

    home: str

    @property
    def folder(self) -> Path:
        """Return the folder of the files."""
        return Path(self.home) / "workers"

    def add(self, name: str, url: str, base_model: str, pid: int) -> None:
        """Register a worker process; without a `url`, only if it has not registered itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.json"
        text = json.dumps(vars(RegisteredWorker(name, url, base_model, pid, identity_of(pid))))
        if url:
            write_text(path, text)
        else:
            # The worker may have registered itself already: its own file stays.
            create_text(path, text)

    def remove(self, name: str) -> None:
        """Remove a worker's file."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def note_failure(self, base_model: str) -> None:
        """Record that a worker could not load its model, so that none is started for a while."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{_FAILURE}{base_model}").touch()

    def failed_since(self, base_model: str, moment_s: float) -> bool:
        """Return whether a worker could not load the model since then (wall clock, s)."""
        try:
            return (self.folder / f"{_FAILURE}{base_model}").stat().st_mtime > moment_s
        except FileNotFoundError:
            return False

    def forget_failures(self) -> None:
        """Remove the records of failures, so that workers are started at once again."""
        for path in self.folder.glob(f"{_FAILURE}*"):
            path.unlink(missing_ok=True)

    def workers(self) -> list[RegisteredWorker]:
        """Return the registered workers that run, by name; remove the files of the others."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            worker = _read(path)
            if worker is None:
                continue
            if worker.is_alive():
                found.append(worker)
            else:
                path.unlink(missing_ok=True)
        return found


def _read(path: Path) -> RegisteredWorker | None:
    """Read a worker's file; return `None` when it is gone, or holds anything else.

    A file that is not a worker's is left alone: it must neither stop a submission nor name a
    process to be ended.
    """
    try:
        with reading(path, RegistrationError):
            worker = _REGISTRATION.validate_json(path.read_bytes())
        if worker.name != path.stem:
            raise RegistrationError(f"{path}: expected the name {path.stem}; got {worker.name!r}")
    except RegistrationError as error:
        if path.exists():
            _warn(str(error))
        return None
    return worker


@lru_cache(maxsize=256)
def _warn(message: str) -> None:
    """Log a warning once in this process: the folder is read in every round."""
    _log.warning("ignored a file among the workers: %s", message)
