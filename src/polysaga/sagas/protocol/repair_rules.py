"""Which repair of a saga is allowed in which status, and the status it leads to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from polysaga.errors import PayloadError, TooLate, WrongStatus
from polysaga.sagas.protocol.rows import NOBODY, Row
from polysaga.sagas.protocol.states import Status


class RepairAction(StrEnum):
    """What a person can do."""

    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOrder:
    """The requested repair, the person who requests it, and why."""

    action: RepairAction
    by: str
    why: str
    step: str | None = None
    result: Any = None
    outcome: Status | None = None
    batch: UUID | None = None  # that it belongs to, and how many sagas that has
    batch_size: int | None = None


def action_of(given: str) -> RepairAction:
    """Return the repair with this name; raise `PayloadError` if there is none."""
    try:
        return RepairAction(given)
    except ValueError:
        raise PayloadError(f"{given!r} is no repair of a saga: give one of {', '.join(RepairAction)}") from None


def outcome_of(given: str | None) -> Status:
    """Return the status as which a person resolves a saga; raise `PayloadError` for another one."""
    outcomes = [status for status in Status if status.final]
    if given not in outcomes:
        raise PayloadError(f"a saga is resolved as {' or '.join(outcomes)}, not as {given}")
    return Status(given)


def status_after(order: RepairOrder, row: Row) -> Status:
    """Return the status that *order* leads to; raise `TooLate` or `WrongStatus` if *row* does not allow it."""
    going = direction(row)

    def wrong(remedy: str) -> WrongStatus:
        return WrongStatus(row.claim.saga_id, row.name, order.action.value, row.status.value, remedy)

    undo = order.action is RepairAction.COMPENSATE or order.outcome is Status.COMPENSATED
    if undo and going in {Status.COMPLETING, Status.COMPLETED}:
        raise TooLate(row.claim.saga_id, row.name, direction(row).value)
    if row.status.final:
        raise wrong("it is at rest for good")
    if order.action is RepairAction.COMPENSATE:
        if row.status is Status.COMPENSATING:
            raise wrong("it is being undone already")
        return Status.COMPENSATING
    if row.status is not Status.NEEDS_ATTENTION and row.claim.owner != NOBODY:
        raise wrong("a process has claimed it; wait until it is parked or put aside by that one, or the next")
    if order.action is not RepairAction.RESOLVE:
        return going
    assert order.outcome is not None
    if order.outcome is Status.COMPLETED and going is Status.COMPENSATING:
        raise wrong("it is being undone; resolve it as compensated")
    return order.outcome


def direction(row: Row) -> Status:
    """Return the status; for a parked saga, the status it had before."""
    if row.status is not Status.NEEDS_ATTENTION:
        return row.status
    assert row.error is not None
    assert row.error.parked is not None
    return row.error.parked.status
