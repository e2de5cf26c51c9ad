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
