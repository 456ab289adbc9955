"""How a saga that did not complete is reported: to the journal as data, to callers as an error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from polysaga.errors import (
    DeadlineExceeded,
    NeedsAttention,
    PolysagaError,
    Refused,
    RowLocked,
    SagaCancelled,
    SagaFailed,
    SagaUndone,
)
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.interrupts import Stopped
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status
from polysaga.sagas.protocol.verdicts import Verdict
from polysaga.texts import said, traced, well_formed


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a saga is undone or parked."""

    verdict: Verdict
    step: str | None  # None: nothing that a step did
    error: BaseException

    def reason(self) -> Reason:
        """Return what the journal keeps of it."""
        kind, message = self.verdict.value, said(self.error)
        if isinstance(self.error, Refused):
            code, facts = well_formed(str(self.error.code)), _as_json(self.error.facts)
            return Reason(kind=kind, step=self.step, message=message, code=code, facts=facts)
        plain = self.verdict in {Verdict.UNAVAILABLE, Verdict.CANCELLED, Verdict.OVERDUE}
        trace = None if plain else traced(self.error)
        return Reason(kind=kind, step=self.step, message=message, traceback=trace)


def cancelled(why: str) -> Failure:
    """Return the failure of a cancelled saga."""
    return Failure(Verdict.CANCELLED, None, Stopped(why))


def overdue() -> Failure:
    """Return the failure of a saga whose deadline has passed."""
    return Failure(Verdict.OVERDUE, None, Stopped("it was not decided before its deadline"))


def error_of(definition: Definition, saga_id: UUID, status: Status, reason: Reason | None) -> PolysagaError:
    """Return the error that a caller gets for a saga at rest that did not complete."""
    reason = reason or Reason()
    step, message = reason.step or "?", reason.message
    if status is Status.NEEDS_ATTENTION:
        return NeedsAttention(
            saga_id, definition.name, message if reason.parked is None else reason.parked.message
        )
    match reason.kind:
        case Verdict.REFUSED:
            refusal = _rebuilt(definition, reason)
            refusal.saga_id = saga_id
            return refusal
        case Verdict.FAILED:
            return SagaFailed(saga_id, definition.name, step, message)
        case Verdict.CANCELLED:
            return SagaCancelled(saga_id, definition.name, message)
        case Verdict.OVERDUE:
            return DeadlineExceeded(saga_id, definition.name, message)
        case _:
            return SagaUndone(saga_id, definition.name, step, message)


def first_told(refusal: Refused, saga_id: UUID, reason: Reason) -> Refused:
    """Return *refusal* for its first caller, with the same facts that every later caller gets."""
    refusal.saga_id, refusal.facts = saga_id, {} if reason.facts is None else reason.facts
    return refusal


def _rebuilt(definition: Definition, reason: Reason) -> Refused:
    # The class is not called: a subclass may have a constructor of its own.
    ours = RowLocked if reason.code == RowLocked.code else Refused
    kind = definition.saga.refusals.get(reason.code or "", ours)
    refusal = _bare(kind, reason)
    if said(refusal) != reason.message:
        # Its own `__str__` needs what its constructor would have set; the journal has the message.
        refusal = _bare(type(kind.__name__, (kind,), {"__str__": Refused.__str__}), reason)
    return refusal


def _bare(kind: type[Refused], reason: Reason) -> Refused:
    refusal = kind.__new__(kind)
    Refused.__init__(refusal, reason.message)
    refusal.facts, refusal.code = reason.facts, reason.code or ""
    return refusal


def _as_json(facts: Mapping[str, Any]) -> Any:
    try:
        return json.loads(to_json(dict(facts), fallback=str, inf_nan_mode="strings"))
    except (ValueError, TypeError, RecursionError):  # PydanticSerializationError is a ValueError
        return {"lost": "these facts cannot be written as JSON"}
