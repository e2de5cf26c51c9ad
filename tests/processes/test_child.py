"""A child process: its environment, its log, and how it ends."""

import signal
import sys
import time
from pathlib import Path

import pytest

from maitre.processes.child import ChildProcess
from maitre.processes.environment import child_environment, inherited
from maitre.processes.service_error import ServiceError


def start(tmp_path: Path, code: str, environment: dict[str, str] | None = None) -> ChildProcess:
    command = [sys.executable, "-u", "-c", code]
    log = tmp_path / "logs" / "child.log"
    return ChildProcess.start("child", command, log=log, environment=environment or {})


def test_a_child_sees_its_environment_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_THE_USERS", "1")
    child = start(tmp_path, "import os; print(sorted(os.environ))", {"ONLY": "this"})
    assert child.wait(timeout_s=20)
    assert "ONLY" in child.log.read_text()
    assert "SOMETHING" not in child.log.read_text()


def test_a_child_that_has_ended_is_named_with_its_log(tmp_path: Path) -> None:
    child = start(tmp_path, "raise SystemExit(3)")
    assert child.wait(timeout_s=20)
    with pytest.raises(ServiceError, match=r"child ended with exit code 3; see .*child\.log"):
        child.check_running()


def test_a_child_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid); time.sleep(60)"
    )
    child = start(tmp_path, code)
    give_up_at_s = time.monotonic() + 20
    while not child.log.read_text().strip() and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    grandchild = Path("/proc", child.log.read_text().strip())
    child.stop(timeout_s=0.2, first=signal.SIGINT)
    assert not child.is_running()
    while grandchild.exists() and time.monotonic() < give_up_at_s:
        if "Z" in (grandchild / "stat").read_text().rsplit(")", 1)[1][:3]:
            break
        time.sleep(0.05)
    else:
        assert not grandchild.exists()


def test_only_listed_variables_are_inherited() -> None:
    own = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "MAITRE_HOME": "h", "MY_SECRET": "s"}
    assert set(inherited(own)) == {"PATH", "CUDA_VISIBLE_DEVICES", "MAITRE_HOME"}
    made = child_environment({"MAITRE_HOME": "mine"}, without=("PATH",), variables=own)
    assert made == {"CUDA_VISIBLE_DEVICES": "0", "MAITRE_HOME": "mine"}
