"""How a saga that did not complete is told: to the journal as data, to callers as the error they expect."""

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
from polysaga.sagas.protocol.decisions import Verdict
from polysaga.sagas.protocol.interrupts import Stopped
from polysaga.sagas.protocol.states import Status
from polysaga.texts import said, traced


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a saga is undone or parked."""

    verdict: Verdict
    step: str | None  # None: nothing that a step did
    error: BaseException

    def as_data(self) -> Mapping[str, Any]:
        """Return what the journal keeps."""
        data: dict[str, Any] = {"kind": self.verdict.value, "step": self.step, "message": said(self.error)}
        if isinstance(self.error, Refused):
            data["code"] = str(self.error.code)
            data["facts"] = _as_json(self.error.facts)
        elif self.verdict not in {Verdict.UNAVAILABLE, Verdict.CANCELLED, Verdict.OVERDUE}:
            data["traceback"] = traced(self.error)
        return data


def cancelled(why: str) -> Failure:
    """Return why a saga is undone that somebody cancelled."""
    return Failure(Verdict.CANCELLED, None, Stopped(why))


def overdue() -> Failure:
    """Return why a saga is undone whose deadline has passed."""
    return Failure(Verdict.OVERDUE, None, Stopped("it was not decided before its deadline"))


def error_of(definition: Definition, saga_id: UUID, status: Status, data: Mapping[str, Any]) -> PolysagaError:
    """Return the error that a caller gets for a saga at rest that did not complete."""
    step, message = data.get("step", "?"), data.get("message", "")
    if status is Status.NEEDS_ATTENTION:
        return NeedsAttention(saga_id, definition.name, data.get("parked", data).get("message", ""))
    match data.get("kind"):
        case Verdict.REFUSED:
            refusal = _rebuilt(definition, data)
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


def first_told(refusal: Refused, saga_id: UUID, data: Mapping[str, Any]) -> Refused:
    """Return *refusal* as its first caller gets it: with the facts that every later caller gets."""
    refusal.saga_id, refusal.facts = saga_id, data.get("facts", {})
    return refusal


def _rebuilt(definition: Definition, data: Mapping[str, Any]) -> Refused:
    # Not by calling it: a subclass may have a constructor of its own.
    ours = RowLocked if data["code"] == RowLocked.code else Refused
    kind = definition.saga.refusals.get(data["code"], ours)
    refusal = _bare(kind, data)
    if said(refusal) != data["message"]:
        # Its own `__str__` needs what its constructor would have set; the journal has its words.
        refusal = _bare(type(kind.__name__, (kind,), {"__str__": Refused.__str__}), data)
    return refusal


def _bare(kind: type[Refused], data: Mapping[str, Any]) -> Refused:
    refusal = kind.__new__(kind)
    Refused.__init__(refusal, data["message"])
    refusal.facts, refusal.code = data["facts"], data["code"]
    return refusal


def _as_json(facts: Mapping[str, Any]) -> Any:
    try:
        return json.loads(to_json(dict(facts), fallback=str, inf_nan_mode="strings"))
    except (ValueError, TypeError, RecursionError):  # PydanticSerializationError is a ValueError
        return {"lost": "these facts cannot be written as JSON"}
