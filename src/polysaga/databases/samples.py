"""What a server reports about itself: its role and its position."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from polysaga.databases.positions import Epoch, Position


class NodeRole(StrEnum):
    """What a server says it is."""

    PRIMARY = "primary"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server reported about itself in one answer."""

    role: NodeRole
    position: Position | None  # replayed (replica) or written (primary); None if it is unknown
    lag: float | None = None  # seconds behind, by the server's own account; None without one

    @property
    def epoch(self) -> Epoch:
        """The epoch of the position; a lower bound on a replica that learns of promotions late."""
        return Epoch() if self.position is None else self.position.epoch


class Probe(Protocol):
    """What a dialect asks for the monitor; *driver* is the driver's own connection (MongoDB: its client).

    Both run outside of a transaction, need no more than an ordinary account's privileges and raise the driver's
    own errors. Neither sets a time limit: the caller does.
    """

    async def sample(self, driver: Any) -> Sample:
        """Return role, epoch and position, in one round trip."""

    async def capture(self, driver: Any) -> Position | None:
        """Return a position on a primary that is past every transaction committed before the call.

        None if the database keeps no positions (SQLite; MariaDB and MySQL without a binary log).
        """
