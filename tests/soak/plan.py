"""What fails, when and for how long: a list that depends on its seed and on nothing else."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

EVERY = 3.0  # seconds between two faults


class Kind(StrEnum):
    """One way to fail."""

    KILL = "kill -9"  # of a service, which is started again
    FREEZE = "freeze"  # a service, for longer or shorter than a lease; then it goes on
    TERMINATE = "SIGTERM"  # of a service, as a deployment does, and a new start
    RESTART = "restart"  # of a database server
    CRASH = "crash"  # of a database server: kill -9, and a new start
    RESET = "reset"  # every connection to a database
    DROP = "drop"  # the same, politely
    HANG = "hang"  # a database answers no client for a while


_OF_SERVICES = (Kind.KILL, Kind.KILL, Kind.FREEZE, Kind.FREEZE, Kind.TERMINATE)
_OF_SERVERS = (Kind.RESTART, Kind.CRASH)
_OF_CONNECTIONS = (Kind.RESET, Kind.DROP, Kind.HANG)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, *at* seconds after the beginning."""

    at: float
    kind: Kind
    target: str  # the service's number, or the database's name
    seconds: float = 0.0  # how long it lasts, where it lasts

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{lasting}"


def plan(
    seed: int, seconds: float, *, services: Sequence[str], databases: Sequence[str], servers: Sequence[str]
) -> Iterator[Fault]:
    """Yield the faults of a run; *servers* are those of *databases* that may be restarted."""
    chance = random.Random(seed)
    kinds = (_OF_SERVICES, _OF_CONNECTIONS, _OF_SERVERS) if servers else (_OF_SERVICES, _OF_CONNECTIONS)
    at = EVERY
    while at < seconds:
        group = chance.choice(kinds)
        kind = chance.choice(group)
        target = chance.choice({_OF_SERVICES: services, _OF_SERVERS: servers}.get(group, databases))
        lasts = {Kind.FREEZE: chance.uniform(0.5, 7.0), Kind.HANG: chance.uniform(0.5, 3.0)}
        yield Fault(at, kind, target, round(lasts.get(kind, 0.0), 1))
        at += EVERY
