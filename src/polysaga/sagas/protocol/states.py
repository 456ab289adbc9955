"""The states of a saga and of its steps; `TRANSITIONS` is the only table of states."""

from collections.abc import Mapping
from enum import StrEnum

from polysaga.errors import PayloadError


class Status(StrEnum):
    """The state of a saga, as the journal keeps it."""

    RUNNING = "running"
    COMPLETING = "completing"  # decided: only forward from here
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    NEEDS_ATTENTION = "needs_attention"

    def __init__(self, text: str) -> None:
        self.final = text in {"completed", "compensated"}  # at rest for good
        self.moving = not self.final and text != "needs_attention"  # some process drives it, or will


def as_status(given: str) -> Status:
    """Return the status that is *given* as itself or as its text; raise `PayloadError` for anything else."""
    try:
        return Status(given)
    except ValueError:
        raise PayloadError(f"{given!r} is no status of a saga: give one of {', '.join(Status)}") from None


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.RUNNING: frozenset(
        {Status.COMPLETING, Status.COMPLETED, Status.COMPENSATING, Status.COMPENSATED, Status.NEEDS_ATTENTION}
    ),
    Status.COMPLETING: frozenset({Status.COMPLETED, Status.NEEDS_ATTENTION}),
    # Back to running: the pivot turned out to be done, committed by another owner.
    Status.COMPENSATING: frozenset({Status.COMPENSATED, Status.RUNNING, Status.NEEDS_ATTENTION}),
    Status.NEEDS_ATTENTION: frozenset(
        {Status.RUNNING, Status.COMPLETING, Status.COMPENSATING, Status.COMPLETED, Status.COMPENSATED}
    ),
    Status.COMPLETED: frozenset(),
    Status.COMPENSATED: frozenset(),
}


class Mark(StrEnum):
    """What is known of one step; done, compensated and blocked are the states of its ledger row."""

    ACTIVE = "active"  # an attempt, or a pause between two, is under way in this process
    DONE = "done"
    COMPENSATED = "compensated"
    BLOCKED = "blocked"
    STUCK = "stuck"  # its retries are used up in this process
