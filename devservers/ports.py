"""TCP ports for servers that listen on the loopback interface.

A port belongs to the process that asked for it until that process ends: other processes that ask, such as the
second worker of a test run or a second test run, get other ports, also while the server of this one is down. The
reservation is a UDP socket on the same number. The kernel gives it to one process only, and takes it back when the
process ends, however it ends.
"""

import random
import socket

_BELOW_THE_EPHEMERAL_RANGE = range(20_000, 32_000)

_reserved: set[int] = set()


def free_port(wanted: int | None = None) -> int:
    """Reserve and return a port: *wanted* if it is free, else any other.

    The kernel's own choice (bind to port 0) would lie in the range it gives to outgoing connections:
    while a server restarts, a client that tries again can take the port, or even connect to itself.
    """
    candidates = random.sample(_BELOW_THE_EPHEMERAL_RANGE, k=100)
    if wanted is not None:
        if wanted in _reserved and _is_free(wanted):
            return wanted
        candidates.insert(0, wanted)
    return next(port for port in candidates if _reserve(port) and _is_free(port))


def _reserve(port: int) -> bool:
    if port in _reserved:
        return False
    reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        reservation.bind(("127.0.0.1", port))
    except OSError:
        reservation.close()
        return False
    reservation.detach()  # open until the process ends
    _reserved.add(port)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
