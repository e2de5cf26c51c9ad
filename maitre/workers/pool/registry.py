"""Where the workers of one machine are: a file a worker in the data home, and the shared token."""

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
    """A worker process of this machine, as it was when it was registered."""

    name: str
    url: str
    base_model: str
    pid: int
    identity: str | None = None

    def is_alive(self) -> bool:
        """Whether its very process is there, and neither a zombie nor on its way out."""
        return is_alive(self.pid, self.identity)


@dataclass(frozen=True)
class WorkerRegistry:
    """The files under `<home>/workers`."""

    home: str

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(self.home) / "workers"

    def add(self, name: str, url: str, base_model: str, pid: int) -> None:
        """Tell of a worker process; without a `url` only until it tells of itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.json"
        text = json.dumps(vars(RegisteredWorker(name, url, base_model, pid, identity_of(pid))))
        if url:
            write_text(path, text)
        else:
            # The worker may have been quicker; its own file stays.
            create_text(path, text)

    def remove(self, name: str) -> None:
        """Forget a worker."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def note_failure(self, base_model: str) -> None:
        """Tell that a worker could not load: the model's next one most likely cannot either."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{_FAILURE}{base_model}").touch()

    def failed_since(self, base_model: str, moment_s: float) -> bool:
        """Whether a worker of the model could not load after a moment, wall-clock s."""
        try:
            return (self.folder / f"{_FAILURE}{base_model}").stat().st_mtime > moment_s
        except FileNotFoundError:
            return False

    def forget_failures(self) -> None:
        """Let workers be started at once again: somebody has looked after what was wrong."""
        for path in self.folder.glob(f"{_FAILURE}*"):
            path.unlink(missing_ok=True)

    def workers(self) -> list[RegisteredWorker]:
        """All registered ones that live, by name; what dead ones left is removed."""
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
