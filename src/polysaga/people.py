"""Who is at the other end of a request, for the pages and routes that people operate a program by.

A program gives `authorize`: it looks at a request and returns a `Person`, or None. Without it, only this machine
is served: the client's address and the requested host name must be loopback, and no proxy may have forwarded the
request.
"""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from starlette.requests import HTTPConnection, Request

_FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"}


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # look and act


@dataclass(frozen=True, slots=True)
class Person:
    """An operator; *name* goes to the audit trail."""

    name: str
    role: Role


Authorize: TypeAlias = Callable[[Request], Person | Awaitable[Person | None] | None]

LOCAL = Person("local", Role.OPERATOR)  # any person on this machine


async def person_of(request: Request, authorize: Authorize | None) -> Person | None:
    """Return the person behind *request*, or None if there is none that the program knows.

    Without *authorize* it is `LOCAL` for a request of this machine.
    """
    if authorize is None:
        return LOCAL if from_this_machine(request) else None
    found = authorize(request)
    return await found if inspect.isawaitable(found) else found


def from_this_machine(request: HTTPConnection) -> bool:
    """Return whether this machine sent *request*, and no other site made a browser here send it."""
    if request.client is None or not _FORWARDED.isdisjoint(request.headers.keys()):
        return False
    # Checking the host name stops pages of sites whose name resolves to this machine (DNS rebinding).
    return _loopback(request.client.host) and _loopback(request.url.hostname or "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
