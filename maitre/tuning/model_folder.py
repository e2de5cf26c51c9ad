"""Where a base model's files are: a local folder, or a snapshot of the Hugging Face hub.

A hub id may name a revision: `org/name@revision`. Snapshots are found in the hub's cache, and
fetched unless `HF_HUB_OFFLINE` is set, as transformers does.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from maitre.errors import UserError

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_HUB_ID = re.compile(r"(?P<repo>(?:[\w-][\w.-]*/)?[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubId:
    """A model of the Hugging Face hub; without a `revision` its main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """Return the hub id in `org/name` or `org/name@revision`; `None` for any other text."""
        match = _HUB_ID.fullmatch(text)
        return cls(match["repo"], match["revision"]) if match else None


def model_folder(path_or_hub_id: str | Path) -> Path:
    """Return the local folder of a model; fetch a hub id that is not in the hub's cache.

    Raises:
        UserError: no such folder, no config.json in it, or a model that the hub does not give.
    """
    path = Path(path_or_hub_id)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"base model {path}: the folder has no config.json")
        return path
    hub_id = None if path.is_absolute() else HubId.parse(str(path_or_hub_id))
    if hub_id is None:
        raise UserError(
            f"base model {path_or_hub_id}: no such folder; expected a folder or a hub id "
            "(org/name or org/name@revision)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id.repo, revision=hub_id.revision, allow_patterns=_FILES))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"base model {path_or_hub_id}: not in the hub's cache, and the hub cannot be reached "
            "(or HF_HUB_OFFLINE is set): fetch it once with a connection, or name a local folder"
        ) from error
    except Exception as error:
        raise UserError(
            f"base model {path_or_hub_id}: neither a local folder nor a model the hub gives out "
            f"({type(error).__name__})"
        ) from error
