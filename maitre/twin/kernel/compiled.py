"""Compile kernels with numba; a disk cache notices a change in any source that is compiled in.

numba stamps a cached function with the age of its own source file, so a caller that has another
file's function compiled into it would outlive a change there. Here the stamp is a hash of all
sources in this folder, of further folders, and of the function's own file; it is the same in every
clone.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

Kernel = Callable[..., Any]


def compiler(*folders: Path, allocates: bool) -> Callable[[Kernel], Kernel]:
    """Return a decorator: `numba.njit` with a disk cache that is valid for these sources.

    `folders` hold further sources that are compiled into the functions. Functions that do not
    allocate get their arrays passed in; without reference counting (`_nrt=False`) a call costs no
    more than its arguments.
    """

    def compiled(function: Kernel) -> Kernel:
        """Return compile the function at its first call, or load it from the disk cache."""
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=allocates)(
            function
        )
        cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if cache_file is not None and hasattr(cache_file, "_source_stamp"):
            cache_file._source_stamp = _source_stamp(function.__code__.co_filename, folders)
            cache_file._load_index = _without_lost_types(cache_file._load_index)
        return dispatcher

    return compiled


@lru_cache(maxsize=64)
def _source_stamp(own_file: str, folders: tuple[Path, ...]) -> tuple[str, int]:
    digest = hashlib.sha256(numba.__version__.encode())
    own = Path(own_file)
    sources = [own] if own.is_file() else []
    for folder in (Path(__file__).parent, *folders):
        sources += sorted(folder.glob("*.py"))
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest(), 0


def _without_lost_types(load_index: Callable[[], Any]) -> Callable[[], Any]:
    """Return a loader for which an index that names a type that no longer exists is empty.

    numba unpickles the index before it looks at the stamp, so an index written by other sources
    would otherwise stop the program instead of being replaced.
    """

    def load() -> Any:
        try:
            return load_index()
        except (AttributeError, ImportError):
            return {}

    return load


compiled = compiler(allocates=False)
