"""How many packets with data this process sent, as the kernel counts them for each TCP connection.

The kernel knows what no wrapper around a driver sees: what C libraries send, and what it merged into one packet.
Acknowledgements without data are not counted. A packet larger than the loopback's 64 KiB counts as several.
"""

import os
import socket
import struct
from pathlib import Path

_DATA_SEGMENTS_OUT = 156  # offset of tcpi_data_segs_out in struct tcp_info (linux/tcp.h)
_ROOM = 256  # bytes


class ConnectionClosed(Exception):
    """A connection was closed while its packets were being counted: the count would be too low."""


def sent() -> dict[int, int]:
    """Return the packets sent so far on each open TCP connection of this process, by the socket's inode."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(entry).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family in {socket.AF_INET, socket.AF_INET6} and one.type == socket.SOCK_STREAM:
                    inode = os.fstat(one.fileno()).st_ino
                    told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROOM)
                    found[inode] = struct.unpack_from("I", told, _DATA_SEGMENTS_OUT)[0]
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def between(before: dict[int, int], after: dict[int, int]) -> int:
    """Return the packets sent between two looks; raise `ConnectionClosed` if a connection is gone."""
    if gone := before.keys() - after.keys():
        raise ConnectionClosed(f"{len(gone)} connections were closed meanwhile: make the pools larger")
    return sum(count - before.get(inode, 0) for inode, count in after.items())
