"""Flips single bits of files, and holds that what is read is unchanged or refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from maitre.errors import UserError


def check_bit_flips(folder: Path, read: Callable[[], object], flips: int = 300) -> int:
    """Assert that no flip in a file of the folder gives something else; return how many refuse.

    `read` returns what was read in a form that `==` compares.
    """
    before = read()
    generator = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    refused = 0
    for file in files:
        content = file.read_bytes()
        for place in generator.integers(len(content) * 8, size=flips // len(files)).tolist():
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            try:
                assert read() == before, (file, place)
            except UserError:
                refused += 1
        file.write_bytes(content)
    assert read() == before
    return refused
