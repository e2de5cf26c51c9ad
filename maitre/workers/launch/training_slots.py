"""The slots of Dagster's concurrency pool of the ops that train."""

from pathlib import Path

import dagster as dg

TRAINING_POOL = "training"
"""Dagster's pool of the ops that train; every warm worker may hold one of its slots."""


def allow_trainings(dagster_home: Path, count: int) -> None:
    """Let as many ops train at once as there may be warm workers."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.event_log_storage.set_concurrency_slots(TRAINING_POOL, count)
