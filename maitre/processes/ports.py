"""Free TCP ports."""

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
