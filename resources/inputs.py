"""What the user brings: tasks, adapters and the choice of a server profile."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from maitre import fingerprints

if TYPE_CHECKING:
    from maitre.tuning.task_source import TaskSource


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
        return fingerprints.of_files([Path(self.adapters)])
