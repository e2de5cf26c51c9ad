"""A PostgreSQL server of the tests' own, from the machine's binaries."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest


def _binary(name: str) -> str | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    search = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which(name, path=search)


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh server on loopback; skips, or fails in CI, without one."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        message = "no initdb and postgres on this machine (Debian's package postgresql has them)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    data = folder / "data"
    data.mkdir(parents=True)
    as_user: dict[str, int] = {}
    if os.geteuid() == 0:
        # The server refuses to run as root; its package brings a user for it.
        account = pwd.getpwnam("postgres")
        as_user = {"user": account.pw_uid, "group": account.pw_gid}
        for path in (folder, data):
            os.chown(path, account.pw_uid, account.pw_gid)
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [initdb, "-D", data, "-U", "maitre", "--auth=trust", "--no-sync"],
        check=True, **quiet, **as_user,
    )  # fmt: skip
    server = subprocess.Popen(
        [postgres, "-D", data, "-p", str(port), "-c", f"unix_socket_directories={data}",
         "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
        **quiet, **as_user,
    )  # fmt: skip
    try:
        _wait_for(port, server)
        yield f"postgresql+psycopg2://maitre@127.0.0.1:{port}/postgres"
    finally:
        # Not SIGTERM: that waits for the clients to leave.
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)


def _wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(200):
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="maitre", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            if server.poll() is not None:
                raise
            time.sleep(0.05)
    raise TimeoutError("PostgreSQL did not start within 10 s")
