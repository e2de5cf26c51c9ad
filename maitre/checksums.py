"""Checksums of what Maitre alone writes and reads: a wrong bit is an error, not another fact.

Files that people write or edit (plans, profiles, catalogues, settings) have none.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from maitre.errors import UserError

SEAL = "sha256"
"""The field of a document that holds the digest of all others."""


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of_arrays(arrays: Mapping[str, np.ndarray], *facts: str) -> str:
    """Return the SHA-256 of named arrays and of texts beside them."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with the digest of all its other fields."""
    facts = {name: value for name, value in document.items() if name != SEAL}
    return facts | {SEAL: digest_of(json.dumps(facts, sort_keys=True).encode())}


def check_seal(document: Mapping[str, Any], where: str, error: type[UserError] = UserError) -> None:
    """Raise `error` where a document has changed since it was sealed; one without a seal passes."""
    if SEAL in document and sealed(document) != document:
        raise error(f"{where}: is damaged: its checksum is another")


def check_digest(
    expected: str | None, found: str, where: str, error: type[UserError] = UserError
) -> None:
    """Raise `error` where two digests differ; without an expected one nothing is checked."""
    if expected is not None and expected != found:
        raise error(f"{where}: is damaged: its checksum is another")
