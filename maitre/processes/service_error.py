"""The error of a server process; light to import, for code that only reports it."""

from maitre.errors import UserError


class ServiceError(UserError):
    """A server process did not start or has ended; the message names it and its log file."""
