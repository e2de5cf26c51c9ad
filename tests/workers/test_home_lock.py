"""One `maitre up` per home, and the end of all that it started; with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from maitre.errors import UserError
from maitre.processes.environment import UP_ID
from maitre.workers.home_lock import HomeLock, UpRecord, end_system

# Locks the home, starts a child with a child of its own in another session, and waits.
UP = """
import subprocess, sys, time
from pathlib import Path
from maitre.workers.home_lock import HomeLock
lock = HomeLock.acquire(Path(sys.argv[1]), {"Dagster": "http://127.0.0.1:3000"})
child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; "
child += "time.sleep(600)'], start_new_session=True); time.sleep(600)"
import os
environment = {**os.environ, "MAITRE_UP_ID": lock.record.id}
subprocess.Popen([sys.executable, "-c", child], env=environment, start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    end_system(tmp_path / "home", timeout_s=1.0)


def start_up(home: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", UP, str(home)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def children(home: Path, count: int) -> list[psutil.Process]:
    record = UpRecord.read(home)
    assert record is not None
    give_up_at_s = time.monotonic() + 20
    while len(found := record.processes()) != count and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    assert len(found) == count
    return found


def test_a_second_up_is_refused_and_leaves_the_first_alone(home: Path) -> None:
    first = start_up(home)
    record = UpRecord.read(home)
    with pytest.raises(UserError, match=rf"runs there already \(process {first.pid}; Dagster http"):
        HomeLock.acquire(home, {})
    assert UpRecord.read(home) == record
    assert first.poll() is None
    assert len(children(home, 2)) == 2


def test_other_homes_are_free(home: Path, tmp_path: Path) -> None:
    start_up(home)
    HomeLock.acquire(tmp_path / "other", {}).release()


def test_down_ends_a_system_that_runs_and_one_whose_up_was_killed(home: Path) -> None:
    for kill in (False, True):
        process = start_up(home)
        left = children(home, 2)
        if kill:
            process.kill()
            process.wait()
            with pytest.raises(UserError, match=r"has left 2 processes .*`maitre down`"):
                HomeLock.acquire(home, {})
        ended = end_system(home, timeout_s=2.0)
        assert ended == (2 if kill else 3)
        process.wait(timeout=5)
        assert not any(
            child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in left
        )
        assert UpRecord.read(home) is None
    assert end_system(home, timeout_s=1.0) == 0


def test_a_record_with_a_pid_that_is_used_again_harms_nobody(home: Path) -> None:
    home.mkdir()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        stale = {"id": "x", "pid": bystander.pid, "identity": "another boot/1", "addresses": {}}
        (home / "up.json").write_text(json.dumps(stale))
        assert end_system(home, timeout_s=1.0) == 0
        assert bystander.poll() is None
        HomeLock.acquire(home, {}).release()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_child_that_ignores_the_signal_is_killed_in_time(home: Path) -> None:
    lock = HomeLock.acquire(home, {})
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(600)"],
        env={**os.environ, UP_ID: lock.record.id},
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    lock.release()
    # As one that was killed has left it.
    (home / "up.json").write_text(json.dumps(vars(lock.record) | {"pid": 2**22, "identity": "-"}))
    began_s = time.monotonic()
    assert end_system(home, timeout_s=0.5) == 1
    assert time.monotonic() - began_s < 5
    assert child.wait(timeout=5) == -signal.SIGKILL


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', "[" * 100_000])
def test_a_damaged_record_counts_as_none(home: Path, content: str) -> None:
    home.mkdir()
    (home / "up.json").write_text(content)
    assert UpRecord.read(home) is None
    HomeLock.acquire(home, {}).release()
