"""Which registered workers live: pids are given out again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maitre.processes import identity as identity_module
from maitre.processes.identity import identity_of
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.registry import WorkerRegistry


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that lives, and would end if it were asked to."""
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield made
    finally:
        made.kill()
        made.wait()


def rewrite(registry: WorkerRegistry, identity: str | None) -> None:
    path = registry.folder / "w.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": identity}))


def test_a_worker_lives_as_long_as_its_process(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    registry = WorkerRegistry(str(tmp_path))
    registry.add("w", "", "tiny", process.pid)
    assert [worker.pid for worker in registry.workers()] == [process.pid]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert registry.workers() == []
    assert not (registry.folder / "w.json").exists()


@pytest.mark.parametrize("earlier", ["another boot", "another start", "an older version"])
def test_a_process_that_has_a_workers_pid_now_is_none_and_is_left_alone(
    tmp_path: Path, process: subprocess.Popen[bytes], earlier: str
) -> None:
    registry = WorkerRegistry(str(tmp_path))
    registry.add("w", "", "tiny", process.pid)
    now = identity_of(process.pid)
    assert now is not None
    boot, start = now.split("/")
    was = {"another boot": f"{boot[::-1]}/{start}", "another start": f"{boot}/{int(start) - 1}"}
    rewrite(registry, was.get(earlier))
    pool = LocalPool(str(tmp_path), "tiny", "token", 2, {})
    pool.stop_all(timeout_s=0.0)
    assert pool.workers() == []
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"name": "odd"}',
        '{"name": "odd", "url": "", "base_model": "tiny", "pid": "x"}',
        '{"name": "odd", "url": "", "base_model": "tiny", "pid": -1}',
        '{"name": "odd", "url": "", "base_model": "tiny", "pid": 0}',
        '{"name": "odd", "url": "", "base_model": "tiny", "pid": 1e400}',
        '{"name": "odd", "url": "file:///etc/passwd", "base_model": "tiny", "pid": 2}',
        '{"name": "../other", "url": "", "base_model": "tiny", "pid": 999999}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_a_file_that_is_not_a_workers_is_ignored_and_stays(
    tmp_path: Path, process: subprocess.Popen[bytes], content: str
) -> None:
    registry = WorkerRegistry(str(tmp_path))
    registry.add("w", "", "tiny", process.pid)
    odd = registry.folder / "odd.json"
    odd.write_bytes(content.encode(errors="surrogatepass"))
    other = tmp_path / "other.json"
    other.write_text("not a worker's")
    (registry.folder / "folder.json").mkdir()
    assert [worker.name for worker in registry.workers()] == ["w"]
    assert odd.exists()
    assert other.exists()


def test_without_proc_a_worker_lives_as_long_as_its_pid(
    tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: else each look would forget all workers, and others would be started."""
    monkeypatch.setattr(identity_module, "_PROC", tmp_path / "proc")
    registry = WorkerRegistry(str(tmp_path))
    registry.add("w", "", "tiny", process.pid)
    registry.add("self", "http://127.0.0.1:1", "tiny", os.getpid())
    assert [worker.name for worker in registry.workers()] == ["self", "w"]
    process.kill()
    process.wait()
    assert [worker.name for worker in registry.workers()] == ["self"]
