"""TCP ports for servers that listen on the loopback interface."""

import random
import socket

_BELOW_THE_EPHEMERAL_RANGE = range(20_000, 32_000)


def free_port(wanted: int | None = None) -> int:
    """`wanted` if nobody listens there, else any free port, which stays free while its server is down.

    The kernel's own choice (bind to port 0) would lie in the range it gives to outgoing connections:
    while a server restarts, a client that tries again can take the port, or even connect to itself.
    """
    candidates = random.sample(_BELOW_THE_EPHEMERAL_RANGE, k=100)
    if wanted is not None:
        candidates.insert(0, wanted)
    return next(port for port in candidates if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
