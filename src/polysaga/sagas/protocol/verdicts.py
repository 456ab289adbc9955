"""What a failed attempt means, from its error and from the ledger."""

from enum import StrEnum

from polysaga.errors import Refused, TryAgain
from polysaga.faults import Fault
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.states import Mark


class Verdict(StrEnum):
    """What a failed attempt means, or why the saga is undone if no attempt failed."""

    AGAIN = "again"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"  # transient, but the retries are used up
    FAILED = "failed"  # an unexpected error
    LATE = "late"  # the ledger says that another owner undid the saga
    LOST = "lost"  # the claim is no longer ours
    CANCELLED = "cancelled"  # no attempt failed: the saga was cancelled
    OVERDUE = "overdue"  # no attempt failed: the saga's deadline has passed


def judge(error: BaseException, fault: Fault | None, row: Mark | None) -> Verdict | Mark:
    """Return what a failed attempt means; `Mark.DONE` if the step happened all the same.

    The ledger takes precedence: a duplicate run fails on the user's own unique key, or on stock already sold,
    before it reaches our row.
    """
    if row is Mark.DONE:
        return Mark.DONE
    if row is not None:
        return Verdict.LATE
    if isinstance(error, Fenced):
        return Verdict.LOST
    if isinstance(error, Refused):
        return Verdict.REFUSED
    if isinstance(error, TryAgain) or passes(error, fault):
        return Verdict.AGAIN
    return Verdict.FAILED


def passes(error: BaseException, fault: Fault | None) -> bool:
    """Return whether what raised *error* may succeed if it is done again: the database was late, or in trouble."""
    return isinstance(error, TimeoutError) or (fault is not None and fault.transient)
