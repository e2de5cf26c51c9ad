"""When worker processes are started."""

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from maitre.settings import Settings
from maitre.workers.pool.factory import pool_of
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.pool import PoolError
from maitre.workers.pool.registry import WorkerRegistry


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def spawn(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        # A process that lives: this one's parent.
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(subprocess, "Popen", spawn)
    return commands


def test_what_somebody_else_has_started_is_not_started_again(
    tmp_path: Path, started: list[list[str]]
) -> None:
    pool = LocalPool(str(tmp_path), "tiny", "token", 2, {})
    pool.grow("tiny", 2, beside=0)
    assert len(started) == 2
    pool.grow("tiny", 2, beside=0)
    assert len(started) == 2
    pool.grow("tiny", 1, beside=2)
    assert len(started) == 3


def test_no_worker_is_started_under_another_models_name(
    tmp_path: Path, started: list[list[str]]
) -> None:
    with pytest.raises(PoolError, match="worker of other: the workers of this machine hold tiny"):
        LocalPool(str(tmp_path), "tiny", "token", 2, {}).grow("other", 1, beside=0)
    assert started == []


def test_after_one_that_could_not_load_none_is_started_for_a_while(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = LocalPool(str(tmp_path), "tiny", "token", 2, {})
    WorkerRegistry(str(tmp_path)).note_failure("tiny")
    pool.grow("tiny", 1, beside=0)
    assert started == []
    LocalPool(str(tmp_path), "other", "token", 2, {}).grow("other", 1, beside=0)
    assert len(started) == 1
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 60.0)
    pool.grow("tiny", 1, beside=0)
    assert len(started) == 2


def test_who_has_mended_the_cause_does_not_wait(tmp_path: Path, started: list[list[str]]) -> None:
    registry = WorkerRegistry(str(tmp_path))
    registry.note_failure("tiny")
    registry.forget_failures()
    LocalPool(str(tmp_path), "tiny", "token", 2, {}).grow("tiny", 1, beside=0)
    assert len(started) == 1


def test_the_cores_are_shared_by_as_many_workers_as_there_may_be(tmp_path: Path) -> None:
    """Not by those that are kept warm: with none of these each would take all cores."""
    model = {"warm_up_s": 1, "lookup_s": 1, "resize_s": 1, "iteration_s": {1: 1}}
    cluster = {"gpus": 3, "gpu_price_per_hour": 1, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    settings = Settings(
        home=str(tmp_path),
        warm_pool="local",
        min_warm_workers=0,
        cluster=f"{tmp_path}/cluster.yaml",
    )
    pool = pool_of(settings)
    assert isinstance(pool, LocalPool)
    assert pool.expected == 3
