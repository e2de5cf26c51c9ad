"""What goes wrong with a server, in one line each."""

from maitre.errors import UserError


class VllmError(UserError):
    """A server is not there, or refused; the message names its address."""


class MetricsError(VllmError):
    """A server's `/metrics` lacks figures that are read here; the message names them."""
