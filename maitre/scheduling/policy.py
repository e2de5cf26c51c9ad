"""What a policy is: a deterministic function of a snapshot to actions.

The simulator (`maitre cluster simulate`) and the live scheduler call the same policy: after each
event, and at the latest when its last `WaitUntil` says. `maitre/scheduling/snapshot.py` says what a
policy sees, `maitre/scheduling/actions.py` what it can ask for.
"""

from collections.abc import Sequence
from typing import Protocol

from maitre.scheduling.actions import Action
from maitre.scheduling.snapshot import Snapshot


class Policy(Protocol):
    """A frozen dataclass whose fields are its parameters and its `name`.

    No clock, no I/O, no random numbers: equal snapshots get equal actions.
    """

    @property
    def name(self) -> str:
        """Return the name by which the command line and the settings know the policy."""
        ...

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Return the actions to take now, in order.

        They take effect at once: a worker that one action takes is not idle for the next. An
        action that cannot be carried out in the simulator (a busy worker, a job that is not
        queued, more workers than GPUs) is a defect of the policy and raises `PolicyError`.
        """
        ...
