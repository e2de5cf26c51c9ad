"""What a policy is: a deterministic function of a snapshot to actions."""

from collections.abc import Sequence
from typing import Protocol

from maitre.scheduling.actions import Action
from maitre.scheduling.snapshot import Snapshot


class Policy(Protocol):
    """Decides. No clock, no I/O, no random numbers: equal snapshots get equal actions."""

    @property
    def name(self) -> str:
        """How the command line calls it."""
        ...

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """The actions to take now, in order."""
        ...
