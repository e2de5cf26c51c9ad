"""Errors of the pool and of the database that may be gone at the next try."""

import sqlalchemy as sa

from maitre.workers.pool.pool import PoolError

PASSING = (PoolError, sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What must not end a run for good: a database that is locked or restarts, an API server that does
not answer, and a Role that lacks something, too, which its owner can mend while the run waits."""


def first_line(error: BaseException) -> str:
    """What went wrong, without the statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
