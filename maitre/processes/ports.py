"""TCP ports: free ones, and who holds one."""

import socket

from maitre.errors import UserError


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_free(option: str, port: int, host: str = "127.0.0.1") -> None:
    """Raise `UserError` naming `option` where a process listens on the port already."""
    with socket.socket() as probe:
        # As servers do: a connection that was closed a moment ago does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{option} {port}: another process uses that port of {host} "
                f"({error.strerror}): give another port"
            ) from None
