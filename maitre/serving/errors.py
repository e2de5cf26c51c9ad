"""Errors of vLLM servers; each message is one line."""

from maitre.errors import UserError


class VllmError(UserError):
    """A server does not answer, or it refused a request; the message names its address."""


class MetricsError(VllmError):
    """A server's `/metrics` lacks metrics that Maitre reads; the message names them."""
