"""A measurement on disk: a folder of Parquet parts and a description of the server.

Each point is written as a part when it ends, so earlier points survive a crash.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from maitre.errors import UserError, reading
from maitre.files import replacing_file, write_text
from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.fit import ProfileIdentity

SERVER_FILE = "server.json"
_IDENTITY_FIELDS = frozenset(field.name for field in fields(ProfileIdentity))


class Measurement:
    """The folder of a measurement: `add` writes a part, `read` returns all parts as one frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, server: MeasuredServer, about: dict[str, Any]) -> None:
        """Start the measurement: write the description of the server.

        Raises:
            UserError: the folder holds another measurement.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / SERVER_FILE).exists():
            raise UserError(f"{self.folder}: holds a measurement already; give another folder")
        self.note(server, about)

    def note(self, server: MeasuredServer, about: dict[str, Any]) -> None:
        """Write the description of the server again, with what was learned since."""
        document = {"server": asdict(server), **about}
        write_text(self.folder / SERVER_FILE, json.dumps(document, indent=2) + "\n")

    def add(self, rows: list[dict[str, Any]], burst: int) -> None:
        """Write the rows of one point; `burst` is the number of the point in order of sending."""
        if not rows:
            return
        frame = pd.DataFrame(rows).assign(burst=burst)
        part = self.folder / f"part-{burst:04d}.parquet"
        with replacing_file(part) as unfinished:
            frame.to_parquet(unfinished, index=False)

    def read(self) -> pd.DataFrame:
        """Return all samples so far.

        Raises:
            UserError: there are none.
        """
        parts = sorted(self.folder.glob("part-*.parquet"))
        if not parts:
            raise UserError(f"{self.folder}: expected samples (part-*.parquet); got none")
        with reading(self.folder):
            return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)

    def about(self) -> dict[str, Any]:
        """Return the description of the server.

        Raises:
            UserError: this is not the folder of a measurement.
        """
        file = self.folder / SERVER_FILE
        if not file.is_file():
            raise UserError(
                f"{self.folder}: expected a folder that `maitre twin measure` wrote; "
                f"{SERVER_FILE} is missing"
            )
        with reading(file):
            return dict(json.loads(file.read_text()))

    def server(self) -> MeasuredServer:
        """Return the server's limits at the time of the measurement."""
        return MeasuredServer(**self.about()["server"])

    def identity(self) -> ProfileIdentity:
        """Return the identity of a profile that is fitted to these samples."""
        return identity_of(self.about())


def identity_of(about: dict[str, Any]) -> ProfileIdentity:
    """Return the identity of the profile of a described server."""
    known = {name: value for name, value in about.items() if name in _IDENTITY_FIELDS}
    loads = tuple((int(rank), float(ms)) for rank, ms in about.get("adapter_load_ms", ()))
    return ProfileIdentity(**{**known, "adapter_load_ms": loads})
