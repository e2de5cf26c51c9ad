"""Errors of the pool and of the database that may be over at the next try."""

import sqlalchemy as sa

from maitre.workers.pool.pool import PoolError

TRANSIENT_ERRORS = (PoolError, sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""Errors that must not end a run.

A database is locked or restarts, an API server does not answer, or a permission is missing that the
cluster's owner can add while the run waits.
"""


def first_line(error: BaseException) -> str:
    """Return the error's first line, without the SQL statement that SQLAlchemy adds."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
