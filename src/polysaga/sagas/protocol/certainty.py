"""What is certain about a saga, whatever happens next: then callers can be told, and not before."""

from enum import StrEnum

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.decisions import pivot_elsewhere
from polysaga.sagas.protocol.known import RULED_OUT, Known
from polysaga.sagas.protocol.states import Status


class Answer(StrEnum):
    """How a saga ends for its callers."""

    COMPLETED = "completed"
    UNDONE = "undone"
    PARKED = "parked"


def answer(definition: Definition, known: Known) -> Answer | None:
    """Return how the saga ends; None while that is open.

    A pivot in another database decides before the journal says so. While the saga is being undone, the answer
    stays open also if its pivot is found committed: the journal must first say that the saga goes forward.
    """
    match known.status:
        case Status.NEEDS_ATTENTION:
            return Answer.PARKED
        case Status.COMPENSATED:
            return Answer.UNDONE
        case Status.COMPLETED:
            return Answer.COMPLETED
        case Status.COMPENSATING:
            return None
    return Answer.COMPLETED if known.decided(definition) else None


def is_too_late(definition: Definition, known: Known) -> bool:
    """Return whether the saga can no longer be cancelled."""
    return known.decided(definition) or known.status in {Status.COMPLETING, Status.COMPLETED}


def is_undone_for_certain(definition: Definition, known: Known, *, home: str) -> bool:
    """Return whether the saga is undone, or is being undone and its pivot can no longer commit."""
    if known.status is not Status.COMPENSATING:
        return known.status is Status.COMPENSATED
    pivot = pivot_elsewhere(definition, home)  # it can commit there until it is blocked there
    return pivot is None or known.marks.get(pivot.name) in RULED_OUT
