"""The GPUs that one decision may still take: cold ones, and idle ones of models without work."""

from maitre.scheduling.actions import Action, LoadModel, StartWorkers
from maitre.scheduling.policies.availability import stealable_workers
from maitre.scheduling.snapshot import Snapshot


class Fleet:
    """Hands out GPUs during one decision, so that two pools do not take the same one."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.cold = snapshot.cold
        self.taken: set[str] = set()

    def room(self, base_model: str) -> int:
        """Return how many more workers of `base_model` could start to load now."""
        return self.cold + len(self._stealable_workers(base_model))

    def grow(self, base_model: str, count: int) -> list[Action]:
        """Start loading `count` workers: cold GPUs first, then idle ones of other models."""
        cold = min(count, self.cold)
        self.cold -= cold
        actions: list[Action] = [StartWorkers(base_model, cold)] if cold else []
        for worker in self._stealable_workers(base_model)[: count - cold]:
            self.taken.add(worker)
            actions.append(LoadModel(worker, base_model))
        return actions

    def _stealable_workers(self, base_model: str) -> list[str]:
        return [
            worker
            for worker in stealable_workers(self.snapshot, base_model)
            if worker not in self.taken
        ]
