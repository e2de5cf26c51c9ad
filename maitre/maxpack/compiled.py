"""Compile what calls the twin's step cost, with a disk cache that notices changes in either.

The step cost of the twin is compiled into these functions, so both folders' sources are in the
cache's stamp.
"""

from pathlib import Path

from maitre.twin.kernel.compiled import compiler

compiled = compiler(Path(__file__).parent, allocates=True)
