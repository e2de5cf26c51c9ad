"""Names of adapters and servers in files, paths and command lines: one rule, both ways.

A name is what vLLM serves: visible characters and blanks, in any script, except those that vLLM's
command line (`--lora-modules NAME=PATH`) or a path would misread. Its path is the name with `/`
between folders; in each part ASCII letters, digits, `.`, `_`, `-` and `~` stand for themselves,
and every other byte of UTF-8 is written `%XX`, as in URLs. A part of more than `LONGEST_PART`
characters continues in a folder inside: all pieces but the last end with `%`.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

# File systems take 255 bytes; some are left for endings.
LONGEST_PART = 200
_CONTINUES = "%"
_MISREAD = frozenset("=,{}\\")
EXPECTED = (
    "visible characters without '=', ',', '{', '}' or '\\', and '/' between parts that are not "
    "empty, '.' or '..'; no '-' or blank at the start, no blank at the end"
)


def is_safe_name(name: str) -> bool:
    """Return whether a name can stand in vLLM's command line and has a path."""
    visible = name == name.strip() and all(
        character == " " or unicodedata.category(character)[0] not in "ZC" for character in name
    )
    parts_are_names = not {"", ".", ".."} & set(name.split("/"))
    return visible and parts_are_names and not _MISREAD & set(name) and not name.startswith("-")


def path_of(name: str) -> str:
    """Return the relative path that stands for a name; any text has one, and no two have the same.

    Of a safe name of ASCII letters, digits, `.`, `_`, `-` and `/` it is the name itself.
    """
    return "/".join(_pieces(_encode(part)) for part in name.split("/"))


def name_of(path: str) -> str:
    """Return the name that a path of `path_of` stands for."""
    joined = path.replace(f"{_CONTINUES}/", "")
    return "/".join("" if part == _EMPTY else unquote(part) for part in joined.split("/"))


# No other part is encoded so: `quote` writes the byte 0 as %00.
_EMPTY = "%_"


def _encode(part: str) -> str:
    if not part:
        return _EMPTY
    if part in (".", ".."):
        # These mean folders.
        return part.replace(".", "%2E")
    return quote(part, safe="", errors="surrogatepass")


def _pieces(encoded: str) -> str:
    """Return the encoded part in pieces that file systems accept; no escape is cut in two."""
    pieces = []
    while len(encoded) > LONGEST_PART:
        cut = LONGEST_PART - len(_CONTINUES)
        escape = encoded.rfind("%", cut - 2, cut)
        cut = escape if escape >= 0 else cut
        pieces.append(encoded[:cut] + _CONTINUES)
        encoded = encoded[cut:]
    return "/".join([*pieces, encoded])
