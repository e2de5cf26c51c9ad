"""What goes wrong with the servers of one machine; light to import, for whoever reports it."""


class ServiceError(RuntimeError):
    """A server did not come up or went down; the message says which and where its log is."""
