"""What the user brings: tasks, adapters and the choice of a server profile."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from maitre.errors import UserError

if TYPE_CHECKING:
    from maitre.tuning.task_source import TaskSource

_HASH_LENGTH = 16


class Inputs(dg.ConfigurableResource):
    """Where the user's inputs are, as the settings say."""

    tasks: str
    adapters: str
    profile: str
    held_back: list[str]

    def task_source(self) -> "TaskSource":
        """Return the source of the tasks."""
        from maitre.tuning.task_source import task_source

        return task_source(self.tasks)

    def adapters_fingerprint(self) -> str:
        """Return a hash of the adapter catalogue's name and content."""
        path = Path(self.adapters)
        if not path.is_file():
            raise UserError(f"{path}: no such file; see maitre.yaml")
        name = f"{path.parent.name}/{path.name}\0".encode()
        return hashlib.sha256(name + path.read_bytes()).hexdigest()[:_HASH_LENGTH]
