"""What a server reports about itself: its role and its position."""

from dataclasses import dataclass
from enum import StrEnum

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
