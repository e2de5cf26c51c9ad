"""The errors that the scheduler raises for its caller to mend."""

from maitre.errors import UserError


class SchedulingError(UserError):
    """A cluster, a job list or a parameter is wrong; the message names the file and the field."""


class PolicyError(RuntimeError):
    """A policy asked for something that the cluster cannot do at that moment."""
