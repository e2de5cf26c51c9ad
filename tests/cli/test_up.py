"""Dagster and MLflow go on without the proxy, which `up` reports; the rest of `up` is a double."""

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from maitre.cli.main import app, main
from maitre.cli.up import up
from maitre.files import write_text
from maitre.processes.child import ChildProcess
from maitre.processes.ports import free_port
from maitre.serving.proxy.proxy_process import ProxyProcess
from maitre.serving.proxy.routes import RoutedServer, Routes
from maitre.workers.home_lock import HomeLock
from maitre.workers.local_services import LocalServices

LOOKS = 3


class Services:
    """Services that are ready at once and are interrupted after some looks at the proxy."""

    dagster_url, mlflow_url = "http://127.0.0.1:1", "http://127.0.0.1:2"

    def __init__(self, log_folder: Path) -> None:
        self.log_folder, self.stopped = log_folder, False

    def wait_until_ready(self, timeout_s: float) -> None:
        assert timeout_s > 0

    def wait(self, each_second: Callable[[], None]) -> None:
        for _ in range(LOOKS):
            each_second()
        raise KeyboardInterrupt

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    made = Services(tmp_path)
    monkeypatch.setattr(LocalServices, "start", lambda *_: made)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("maitre.processes.ports.check_free", lambda *_: None)
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAITRE_GATEWAY_METRICS_URL", "")
    return made


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something else holds."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening.getsockname()[1]


def route(tmp_path: Path) -> None:
    routes = Routes({"s": RoutedServer("http://127.0.0.1:1", "tiny")})
    write_text(tmp_path / "home" / "serving" / "routes.json", routes.to_json())


def test_a_port_that_is_taken_costs_the_proxy_only(
    tmp_path: Path, services: Services, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    route(tmp_path)
    up(typer.Context(typer.main.get_command(app)), workers=0, proxy_port=taken)
    printed = capsys.readouterr().out
    assert f"no proxy: the proxy at http://127.0.0.1:{taken} ended" in printed
    assert "Dagster  http" in printed
    assert services.stopped


def test_routes_that_cannot_be_read_cost_the_proxy_only(
    tmp_path: Path, services: Services, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "home" / "serving" / "routes.json", "{")
    up(typer.Context(typer.main.get_command(app)), workers=0, proxy_port=taken)
    assert "expected a route file" in capsys.readouterr().out
    assert services.stopped


def test_a_proxy_that_ends_later_is_named_once(
    tmp_path: Path,
    services: Services,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "proxy.log"
    gone = ChildProcess.start("proxy", [sys.executable, "-c", ""], log=log, environment={})
    assert gone.wait(timeout_s=30)
    proxy = ProxyProcess("http://127.0.0.1:3", tmp_path, log, gone)
    monkeypatch.setattr(ProxyProcess, "start_where_routed", lambda *_: proxy)
    monkeypatch.setattr(ProxyProcess, "wait_until_ready", lambda _: None)
    up(typer.Context(typer.main.get_command(app)), workers=0, proxy_port=taken)
    assert capsys.readouterr().out.count(f"no proxy: it ended; see {tmp_path}/proxy.log") == 1
    assert services.stopped


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "-1"), ("--keep", "-1"), ("--keep", "3"), ("--dagster-port", "65536"),
        ("--mlflow-port", "0"), ("--proxy-port", "-5"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_start_nothing(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    started: list[object] = []
    monkeypatch.setattr(LocalServices, "start", lambda *given: started.append(given))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["maitre", "up", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, started) == (2, [])


@pytest.mark.parametrize("option", ["--dagster-port", "--mlflow-port"])
def test_a_port_in_use_is_named_and_nothing_starts(
    option: str,
    taken: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[object] = []
    monkeypatch.setattr(LocalServices, "start", lambda *given: started.append(given))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("MAITRE_HOME", str(tmp_path / "home"))
    others = {"--dagster-port": free_port(), "--mlflow-port": free_port(), option: taken}
    options = [part for name, port in others.items() for part in (name, str(port))]
    monkeypatch.setattr("sys.argv", ["maitre", "up", "--workers", "0", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, started) == (2, [])
    assert f"{option} {taken}: another process uses that port" in capsys.readouterr().err
    # The home is free again.
    HomeLock.acquire(tmp_path / "home", {}).release()
