"""Stored samples of the servers' state: one file per sample, as several processes write them."""

import contextlib
import re
import uuid

from maitre.serving.observe import Sight
from resources.data_home import DataHome

LOOKS = "observed_traffic/looks"
KEPT_S = 7200.0
_NAME = re.compile(r"(?P<at_s>\d+\.\d+)-[0-9a-f]+\.json")


def store_sample(home: DataHome, sight: Sight, window_s: float) -> list[Sight]:
    """Store one more sample; return those of the `window_s` before it, the oldest first.

    Looks older than `KEPT_S`, or than the window where that is longer, are removed.
    """
    home.files().write_json(f"{LOOKS}/{sight.at_s:017.3f}-{uuid.uuid4().hex}.json", sight.to_dict())
    _forget(home, sight.at_s - max(KEPT_S, window_s))
    return samples_since(home, sight.at_s - window_s)


def samples_since(home: DataHome, since_s: float) -> list[Sight]:
    """Return the stored samples from a time on, the oldest first."""
    found = []
    for name, at_s in _kept(home):
        # Names hold milliseconds.
        if at_s >= since_s - 1e-3:
            with contextlib.suppress(FileNotFoundError):  # another process has forgotten it
                found.append(Sight.from_dict(home.files().read_json(f"{LOOKS}/{name}")))
    return sorted(found, key=lambda sight: sight.at_s)


def _forget(home: DataHome, before_s: float) -> None:
    for name, at_s in _kept(home):
        if at_s < before_s:
            with contextlib.suppress(FileNotFoundError):  # another process was first
                home.files().remove(f"{LOOKS}/{name}")


def _kept(home: DataHome) -> list[tuple[str, float]]:
    matches = [(name, _NAME.fullmatch(name)) for name in home.files().list_folder(LOOKS)]
    return [(name, float(match["at_s"])) for name, match in matches if match]
