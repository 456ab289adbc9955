"""Facts: what a server tells about itself when somebody checks whether a program would work on it. Pure values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that a person should know, and what to do about it."""

    text: str
    remedy: str
    fatal: bool = True  # something would not work; else it works, but not as well as it could


@dataclass(frozen=True, slots=True)
class Facts:
    """What one server said over a connection for plain reads."""

    version: str
    clock: float  # its time now, in seconds since 1970
    refuses_writes: bool | None  # on connections for plain reads; None if it knows no such thing
    findings: tuple[Finding, ...] = ()


UNGUARDED = Finding(
    "the server does not refuse writes on connections that only read",
    "look for a pooler or proxy in between that drops session settings, and connect to the server itself",
)
