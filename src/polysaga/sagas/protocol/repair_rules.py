"""Which repair of a saga is allowed in which status, and the status it leads to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from polysaga.errors import PayloadError, TooLate, WrongStatus
from polysaga.sagas.protocol.rows import NOBODY, LedgerRow, Row
from polysaga.sagas.protocol.states import Mark, Status


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
        raise TooLate(row.claim.saga_id, row.name, going.value)
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


def refusal_of_skip(
    found: LedgerRow | None, going: Status, *, is_call: bool, is_repeated: bool, result: Callable[[], str]
) -> str | None:
    """Return why a person cannot skip the step whose ledger row was *found*, with the remedy; None if they can.

    *going* is the saga's direction. *is_call*: the step has no database. *is_repeated*: a repair of the saga was
    broken off after it had written the ledgers, so a row may be its own. Going forward it is only if it has the
    *result* that the person gives, which is asked for in that case alone.
    """
    if found is None:
        return None
    if going is Status.COMPENSATING:
        # A call whose record is blocked may have happened all the same.
        undone = {Mark.COMPENSATED} if is_call else {Mark.COMPENSATED, Mark.BLOCKED}
        return "is undone already" if found.state in undone and not is_repeated else None
    if found.state is Mark.DONE:
        is_own = is_repeated and found.result == result()
        return None if is_own else "is done already"
    remedy = "resolve it as completed" if going is Status.COMPLETING else "compensate the saga"
    return f"is undone already; {remedy}"


def direction(row: Row) -> Status:
    """Return the status; for a parked saga, the status it had before."""
    if row.status is not Status.NEEDS_ATTENTION:
        return row.status
    assert row.error is not None
    assert row.error.parked is not None
    return row.error.parked.status
