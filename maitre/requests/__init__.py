"""The queue of tuning requests: tables in SQLite or PostgreSQL, through SQLAlchemy.

`request` says what a request is, `store` what can be done with the queue, `tables` how it is kept.
"""

from maitre.requests.request import RequestError, RequestState, TuningRequest

__all__ = ["RequestError", "RequestState", "TuningRequest"]
