"""Fixtures that every part's tests share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party measurements beside the checkout (or `MAITRE_SHARED_DATA`).

    Where it is missing the test is skipped, except in CI, where it must be there.
    """
    folder = Path(os.environ.get("MAITRE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    message = f"no measured data at {folder}; set MAITRE_SHARED_DATA to their folder"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


# Tests that need a language model or start processes (PostgreSQL, workers, servers, kubectl,
# Dagster runs with subprocesses). `make quick` runs the others.
NEEDS = {
    "model": (
        "tests/assets/tuning",
        "tests/cli/test_bank.py",
        "tests/cli/test_requests.py",
        "tests/cli/test_tune_local.py",
        "tests/pipelines",
        "tests/serving/proxy/test_proxy.py",
        "tests/test_bad_input.py",
        "tests/test_wheel.py",
        "tests/tuning",
        "tests/workers/process",
    ),
    "process": (
        "tests/assets",
        "tests/cli/test_up.py",
        "tests/examples",
        "tests/k8s",
        "tests/processes",
        "tests/requests",
        "tests/resources",
        "tests/sensors",
        "tests/serving/fleet",
        "tests/serving/measure",
        "tests/serving/proxy/test_proxy_process.py",
        "tests/serving/test_real_server.py",
        "tests/tracking",
        "tests/workers/launch",
        "tests/workers/pool",
        "tests/workers/process",
        "tests/workers/scheduling",
        "tests/test_wheel.py",
        "tests/workers/test_home_lock.py",
        "tests/workers/test_local_services.py",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="Only tests that need no model and no process, and none marked slow.",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of what `--quick` leaves out: importing is most of the time."""
    if not config.getoption("quick"):
        return None
    place = collection_path.relative_to(REPOSITORY).as_posix()
    return True if any(place in folders for folders in NEEDS.values()) else None


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("quick") and not config.option.markexpr:
        config.option.markexpr = "not (model or process or slow or shared or vllm)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, by where it lies."""
    for item in items:
        place = item.path.relative_to(REPOSITORY).as_posix()
        for marker, folders in NEEDS.items():
            if place.startswith(folders):
                item.add_marker(marker)
