"""A numba decorator whose disk cache notices a change in any file of the kernel.

numba stamps a cached function with the age of its own source file, so a caller that has another
file's function compiled into it would outlive a change there. Here the stamp is a hash of all
sources in this folder; it is the same in every clone.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def _source_stamp() -> tuple[str, int]:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest(), 0


_STAMP = _source_stamp()


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit(cache=True)` with a cache that is valid for the whole kernel's sources."""
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None and hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _STAMP
    return dispatcher
