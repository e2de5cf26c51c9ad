"""The workers of one machine: one file per worker in the data home, and their shared token."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from maitre.files import create_text, write_text
from maitre.processes.identity import identity_of, is_alive
from maitre.settings import Settings

_FAILURE = "last-failure-"


@dataclass(frozen=True)
class RegisteredWorker:
    """A worker process of this machine at its registration."""

    name: str
    url: str
    base_model: str
    pid: int
    identity: str | None = None

    def is_alive(self) -> bool:
        """Return whether the process that was registered still runs."""
        return is_alive(self.pid, self.identity)


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
            try:
                worker = RegisteredWorker(**json.loads(path.read_text()))
            except FileNotFoundError:
                continue
            if worker.is_alive():
                found.append(worker)
            else:
                self.remove(worker.name)
        return found


def read_token(settings: Settings) -> str:
    """Return the token between launcher and workers: the settings', or one made in the home."""
    if settings.worker_token:
        return settings.worker_token
    path = settings.scratch / "workers" / "token"
    if not path.exists():
        create_text(path, secrets.token_hex(32), private=True)
    return path.read_text()
