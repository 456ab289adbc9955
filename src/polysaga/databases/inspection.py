"""Facts: what a server reports when an operator checks whether a program would work on it. Pure values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that an operator should know, and its remedy."""

    text: str
    remedy: str
    fatal: bool = True  # something would not work; else it works, but not as well as it could


@dataclass(frozen=True, slots=True)
class Facts:
    """What one server reported over a connection for plain reads."""

    version: str
    clock: float  # its time now, in seconds since 1970
    refuses_writes: bool | None  # on connections for plain reads; None if it has no such mode
    findings: tuple[Finding, ...] = ()


UNGUARDED = Finding(
    "the server does not refuse writes on connections that only read",
    "look for a pooler or proxy in between that drops session settings, and connect to the server itself",
)
