"""Names of servers and adapters as DNS labels, file names and paths inside a folder.

Names come from plans and catalogues, which anybody may have written: none leads out of the folder
that it is meant for.
"""

import hashlib
import re
from pathlib import PurePath
from typing import TypeVar

from maitre.errors import UserError
from maitre.placement.safe_names import path_of

Folder = TypeVar("Folder", bound=PurePath)

_LONGEST_LABEL = 52
# A file system takes 255 bytes per name.
_LONGEST_PART_BYTES = 255


def resource_name(server_name: str) -> str:
    """Return a DNS label for a server: lower case, with a hash where characters were replaced."""
    return f"vllm-{dns_label(server_name)}"


def dns_label(name: str) -> str:
    """Return the name if it is a short DNS label; else what is left of it, with its hash."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "server"
    if cleaned == name and len(cleaned) <= _LONGEST_LABEL:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{cleaned[:43].strip('-')}-{digest}"


def adapter_folder(folder: Folder, name: str) -> Folder:
    """Return the folder of an adapter: its name as a path, by `maitre.placement.safe_names`.

    Raises:
        UserError: the name leads out of the folder.
    """
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
        raise UserError(f"name {name!r}: expected a path inside {folder}")
    return folder / path_of(name)


def inside(folder: Folder, name: str) -> Folder:
    """Return the path of `name` inside `folder`; a `/` in the name separates folders.

    Raises:
        UserError: the name leads out of the folder, or a part of it cannot be a file name.
    """
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part:
            raise UserError(f"name {name!r}: expected a path inside {folder}; got a part {part!r}")
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            raise UserError(f"name {name!r}: expected valid Unicode") from None
        if length > _LONGEST_PART_BYTES:
            raise UserError(
                f"name {name[:40]!r}...: expected parts of at most {_LONGEST_PART_BYTES} bytes; "
                f"got {length}"
            )
    return folder / name
