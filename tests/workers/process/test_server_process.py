"""The worker's process from outside: what its signals do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_worker_that_loads_ends_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    """A pod that is deleted before it is ready need not use up its grace period."""
    (tmp_path / "loads_for_ever.py").write_text("import time\ntime.sleep(600)\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())]),
        "MAITRE_HOME": str(tmp_path / "home"),
        "MAITRE_REQUEST_QUEUE_URL": f"sqlite:///{tmp_path}/requests.db",
        "MAITRE_BASE_MODEL": str(tmp_path / "model"),
        "DAGSTER_HOME": str(tmp_path),
    }
    options = ["--module", "loads_for_ever", "--no-register", "--stay", "--name", "w"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "maitre.workers.process.server", *options],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    try:
        assert any(" loads " in line for line in worker.stderr)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        assert "ready after" not in worker.stderr.read()
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_refuses_the_name_of_a_model_that_it_does_not_load(tmp_path: Path) -> None:
    """It would serve one model as another."""
    environment = os.environ | {
        "MAITRE_HOME": str(tmp_path / "home"),
        "MAITRE_BASE_MODEL": str(tmp_path / "tiny"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "maitre.workers.process.server", "--base-model", "other"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--base-model: expected the base model" in done.stderr
    assert "settings, tiny; got other" in done.stderr
    assert not (tmp_path / "home" / "workers").exists()
