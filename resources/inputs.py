"""What the user brings: tasks, adapters and the choice of a server profile."""

import hashlib
from pathlib import Path

import dagster as dg


class Inputs(dg.ConfigurableResource):
    """Paths of the user's inputs, read from the settings."""

    tasks: str
    adapters: str
    profile: str
    held_back: list[str]

    def tasks_fingerprint(self) -> str:
        """A hash over the names and contents of all task files."""
        if not Path(self.tasks).is_dir():
            raise FileNotFoundError(f"{self.tasks}: no such folder of tasks; see maitre.yaml")
        return _hash_files(sorted(p for p in Path(self.tasks).rglob("*") if p.is_file()))

    def adapters_fingerprint(self) -> str:
        """A hash of the adapter catalogue's content."""
        return _hash_files([Path(self.adapters)])


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; see maitre.yaml")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
