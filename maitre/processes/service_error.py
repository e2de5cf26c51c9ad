"""The error of a server process, in a module that is quick to import."""

from maitre.errors import UserError


class ServiceError(UserError):
    """A server process did not start or has ended; the message names it and its log file."""
