"""The token between launcher and workers: an unsafe one stops a worker instead of opening it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maitre.settings import Settings
from maitre.workers.pool.token import TokenError, read_token

UNSAFE = ["", "\n", "short", "a token with spaces in it", "x" * 15]


def settings_of(home: Path, token: str = "") -> Settings:
    return Settings(home=str(home), worker_token=token)


def test_a_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        tokens = set(threads.map(lambda _: read_token(settings_of(tmp_path)), range(8)))
    [token] = tokens
    assert len(token) == 64
    assert (tmp_path / "workers" / "token").stat().st_mode & 0o777 == 0o600
    assert read_token(settings_of(tmp_path, f" {'s' * 16}\n")) == "s" * 16


@pytest.mark.parametrize("content", UNSAFE)
def test_an_unsafe_token_is_refused_by_its_source(tmp_path: Path, content: str) -> None:
    path = tmp_path / "workers" / "token"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(TokenError, match=f"{path}: delete this file"):
        read_token(settings_of(tmp_path))
    if content:
        with pytest.raises(TokenError, match="MAITRE_WORKER_TOKEN"):
            read_token(settings_of(tmp_path, content))
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(TokenError, match="not UTF-8"):
        read_token(settings_of(tmp_path))


def test_a_worker_with_an_empty_token_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "home" / "workers").mkdir(parents=True)
    (tmp_path / "home" / "workers" / "token").touch()
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "maitre.workers.process.server", "--name", "w"],
        env=environment | {"MAITRE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("worker w: ")
    assert "expected a token of at least 16" in line
    assert list((tmp_path / "home" / "workers").iterdir()) == [
        tmp_path / "home" / "workers" / "token"
    ]
