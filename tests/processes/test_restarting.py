"""A service that ends is started again, with growing pauses, up to a limit; real processes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maitre.processes.child import ChildProcess
from maitre.processes.restarting import MOST_RESTARTS, RestartingService
from maitre.processes.service_error import ServiceError


class Clock:
    """A clock that stands until it is moved."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def starter(tmp_path: Path, code: str) -> Callable[[], ChildProcess]:
    def start() -> ChildProcess:
        command = [sys.executable, "-c", code]
        return ChildProcess.start("mlflow", command, log=tmp_path / "log", environment={})

    return start


def test_a_killed_service_starts_again_after_a_pause(tmp_path: Path) -> None:
    clock, reports = Clock(), list[str]()
    start = starter(tmp_path, "import time; time.sleep(600)")
    service = RestartingService(start, reports.append, clock)
    first = service.child
    service.check()
    assert (service.child, reports) == (first, [])
    first.process.kill()
    first.process.wait()
    service.check()
    service.check()
    assert len(reports) == 1
    assert reports[0].startswith("mlflow ended with exit code -9: starts again in 1 s")
    assert service.child is first
    clock.now_s = 1.0
    service.check()
    assert service.child.is_running()
    service.child.stop(1.0)


def test_a_service_that_ends_again_and_again_is_an_error(tmp_path: Path) -> None:
    clock, reports = Clock(), list[str]()
    service = RestartingService(starter(tmp_path, "raise SystemExit(3)"), reports.append, clock)

    def run_until_it_is_given_up() -> None:
        for _ in range(100):
            service.child.process.wait()
            service.check()
            clock.now_s += 1.0

    with pytest.raises(ServiceError, match=f"ended {MOST_RESTARTS + 1} times .* exit code 3"):
        run_until_it_is_given_up()
    pauses = [float(report.split("again in ")[1].split(" s")[0]) for report in reports]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_ends_of_long_ago_do_not_count(tmp_path: Path) -> None:
    clock = Clock()
    service = RestartingService(starter(tmp_path, "pass"), lambda _: None, clock)
    for _ in range(3 * MOST_RESTARTS):
        service.child.process.wait()
        service.check()
        clock.now_s += 601.0
        service.check()
