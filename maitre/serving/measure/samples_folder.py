"""A measurement on disk: a folder of Parquet parts and what is known of the server.

Each point becomes a part as soon as it ends, so that a server (or a machine) that dies leaves what
was measured before.
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
    """The folder; `add` writes a part, `read` gives all of them as one frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, server: MeasuredServer, about: dict[str, Any]) -> None:
        """Write down the server.

        Raises:
            FileExistsError: the folder holds another measurement.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / SERVER_FILE).exists():
            raise UserError(f"{self.folder}: holds a measurement already; give another folder")
        self.note(server, about)

    def note(self, server: MeasuredServer, about: dict[str, Any]) -> None:
        """Write down the server anew, with what was learned of it since."""
        document = {"server": asdict(server), **about}
        write_text(self.folder / SERVER_FILE, json.dumps(document, indent=2) + "\n")

    def add(self, rows: list[dict[str, Any]], burst: int) -> None:
        """Write one point's rows; `burst` numbers the times that points were sent."""
        if not rows:
            return
        frame = pd.DataFrame(rows).assign(burst=burst)
        part = self.folder / f"part-{burst:04d}.parquet"
        with replacing_file(part) as unfinished:
            frame.to_parquet(unfinished, index=False)

    def read(self) -> pd.DataFrame:
        """All samples so far.

        Raises:
            FileNotFoundError: there are none.
        """
        parts = sorted(self.folder.glob("part-*.parquet"))
        if not parts:
            raise UserError(f"{self.folder}: holds no samples")
        with reading(self.folder):
            return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)

    def about(self) -> dict[str, Any]:
        """What is known of the server, `server` apart.

        Raises:
            FileNotFoundError: it is not a measurement's folder.
        """
        file = self.folder / SERVER_FILE
        if not file.is_file():
            raise UserError(f"{self.folder}: no measurement (it has no {SERVER_FILE})")
        with reading(file):
            return dict(json.loads(file.read_text()))

    def server(self) -> MeasuredServer:
        """The server as the design knew it."""
        return MeasuredServer(**self.about()["server"])

    def identity(self) -> ProfileIdentity:
        """What a profile fitted to the samples is of."""
        return identity_of(self.about())


def identity_of(about: dict[str, Any]) -> ProfileIdentity:
    """What is known of a server as the identity of its profile."""
    known = {name: value for name, value in about.items() if name in _IDENTITY_FIELDS}
    loads = tuple((int(rank), float(ms)) for rank, ms in about.get("adapter_load_ms", ()))
    return ProfileIdentity(**{**known, "adapter_load_ms": loads})
