"""The queue of tuning requests: tables in SQLite or PostgreSQL, through SQLAlchemy.

`request` defines a request and its defaults, `store` reads and changes the queue, `tables` keeps it
in a database.
"""

from maitre.requests.request import RequestError, RequestState, TuningRequest

__all__ = ["RequestError", "RequestState", "TuningRequest"]
