"""The addresses of the servers of `maitre up`: a file in the data home, for other commands."""

import json
from collections.abc import Mapping
from pathlib import Path

from maitre.files import write_text
from maitre.settings import Settings

_NAME = "services.json"


def write_services(home: str, services: Mapping[str, str]) -> Path:
    """Write the file and return its path; the process that stops the servers removes it."""
    path = Path(home) / _NAME
    write_text(path, json.dumps(dict(services)))
    return path


def remove_services(home: str, written: Mapping[str, str]) -> None:
    """Remove the file if it is still the one that was written with these services."""
    path = Path(home) / _NAME
    try:
        is_ours = json.loads(path.read_text()) == dict(written)
    except (OSError, json.JSONDecodeError):
        return
    if is_ours:
        path.unlink(missing_ok=True)


def forget_services(home: str) -> None:
    """Remove the file: the servers that it names have ended."""
    (Path(home) / _NAME).unlink(missing_ok=True)


def with_running_services(settings: Settings) -> Settings:
    """Return the settings; what they leave open is filled in with the servers of `maitre up`."""
    try:
        services = json.loads((Path(settings.home) / _NAME).read_text())
        warm_pool, dagster_url = services["warm_pool"], services["dagster_url"]
    except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
        # No server runs, or another version has written the file.
        return settings
    changes: dict[str, str] = {}
    if settings.warm_pool == "off":
        changes["warm_pool"] = warm_pool
    if not settings.dagster_url:
        changes["dagster_url"] = dagster_url
    return settings.model_copy(update=changes)
