"""Stored samples of the servers' state: one file per sample, as several processes write them."""

import contextlib
import re
import uuid

from maitre.errors import UserError
from maitre.serving.observe import TrafficSample
from resources.data_home import DataHome

SAMPLES = "observed_traffic/looks"
KEPT_S = 7200.0
_NAME = re.compile(r"(?P<at_s>\d+\.\d+)-[0-9a-f]+\.json")


def store_sample(home: DataHome, sample: TrafficSample, window_s: float) -> list[TrafficSample]:
    """Store one more sample; return those of the `window_s` before it, the oldest first.

    Samples older than `KEPT_S`, or than the window if that is longer, are removed.
    """
    home.files().write_json(
        f"{SAMPLES}/{sample.at_s:017.3f}-{uuid.uuid4().hex}.json", sample.to_dict()
    )
    _remove_older(home, sample.at_s - max(KEPT_S, window_s))
    return samples_since(home, sample.at_s - window_s)


def samples_since(home: DataHome, since_s: float) -> list[TrafficSample]:
    """Return the stored samples from a time on, the oldest first."""
    found = []
    for name, at_s in _stored_samples(home):
        # Names hold milliseconds.
        if at_s >= since_s - 1e-3:
            # Another process may have removed it; a damaged sample must not stop the sensor.
            with contextlib.suppress(FileNotFoundError, UserError, ValueError, RecursionError):
                found.append(TrafficSample.from_dict(home.files().read_json(f"{SAMPLES}/{name}")))
    return sorted(found, key=lambda sample: sample.at_s)


def _remove_older(home: DataHome, before_s: float) -> None:
    for name, at_s in _stored_samples(home):
        if at_s < before_s:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                home.files().remove(f"{SAMPLES}/{name}")


def _stored_samples(home: DataHome) -> list[tuple[str, float]]:
    matches = [(name, _NAME.fullmatch(name)) for name in home.files().list_folder(SAMPLES)]
    return [(name, float(match["at_s"])) for name, match in matches if match]
