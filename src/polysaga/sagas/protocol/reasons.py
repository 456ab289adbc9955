"""Why a saga is undone or parked, and which attempts its steps made: what the journal's row shows to people.

The journal keeps a `Reason` as JSON in `error`, and the attempts in `history`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from polysaga.sagas.protocol.states import Status


class _Cause(TypedDict, total=False):
    kind: str
    step: str | None
    message: str
    code: str
    facts: Any
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    """Why a saga is parked, and the status it had before."""

    status: Status
    kind: str | None = None  # a verdict on the last attempt; None: there was none
    step: str | None = None
    message: str = ""
    code: str | None = None  # of a refusal
    facts: Any = None  # of a refusal, as JSON keeps them
    traceback: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plain types that the journal stores."""
        return {**_cause(self), "from": self.status.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Parking":
        """Decode what `to_json` wrote."""
        return cls(status=Status(data["from"]), **_caused(data))


@dataclass(frozen=True, slots=True)
class Resolution:
    """The person who ended a saga, and why."""

    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a saga is undone, why it is parked, and how people repaired it; each may be missing.

    *kind* is a verdict, such as `refused`, `failed` or `cancelled`; None: the saga is not being undone.
    """

    kind: str | None = None
    step: str | None = None  # None: nothing that a step did
    message: str = ""
    code: str | None = None  # of a refusal
    facts: Any = None  # of a refusal, as JSON keeps them
    traceback: str | None = None
    parked: Parking | None = None
    resolved: Resolution | None = None
    undone_by_hand: tuple[str, ...] = field(default=())  # steps whose record is the journal's row

    def parked_from(self, status: Status, trouble: "Reason") -> "Reason":
        """Return the reason of a saga that was in *status* and is parked for *trouble*."""
        parking = Parking(status=status, **_caused(_cause(trouble)))
        return Reason(**_caused(_cause(self)), parked=parking, undone_by_hand=self.undone_by_hand)

    def to_json(self) -> dict[str, Any]:
        """Return the plain types that the journal stores, without missing values."""
        data: dict[str, Any] = dict(_cause(self))
        if self.parked is not None:
            data["parked"] = self.parked.to_json()
        if self.resolved is not None:
            data["resolved"] = {"by": self.resolved.by, "why": self.resolved.why}
        if self.undone_by_hand:
            data["undone_by_hand"] = list(self.undone_by_hand)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reason":
        """Decode what `to_json` of this or another version wrote."""
        parked, resolved = data.get("parked"), data.get("resolved")
        return cls(
            **_caused(data),
            parked=None if parked is None else Parking.from_json(parked),
            resolved=None if resolved is None else Resolution(resolved["by"], resolved["why"]),
            undone_by_hand=tuple(data.get("undone_by_hand", ())),
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one step, or of its compensation."""

    step: str
    phase: str  # do, undo
    attempt: int  # from 1 on, in one process
    at_ms: float  # milliseconds since the process began to drive the saga
    ms: float  # milliseconds that it took
    outcome: str  # done, found (the step had happened before), or what went wrong

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Attempt":
        """Decode an attempt that this or another version wrote to the journal."""
        return cls(*(data.get(name, missing) for name, missing in _MISSING.items()))


_MISSING: Mapping[str, Any] = {
    "step": "?",
    "phase": "do",
    "attempt": 1,
    "at_ms": 0.0,
    "ms": 0.0,
    "outcome": "?",
}


def _cause(told: Reason | Parking) -> _Cause:
    """Return the fields that `Reason` and `Parking` share, as plain types, without missing values."""
    cause: _Cause = {}
    if told.kind is not None:
        cause["kind"] = told.kind
    if told.kind is not None or told.message:
        cause["step"], cause["message"] = told.step, told.message
    if told.code is not None:
        cause["code"], cause["facts"] = told.code, told.facts
    if told.traceback is not None:
        cause["traceback"] = told.traceback
    return cause


def _caused(data: Mapping[str, Any]) -> _Cause:
    return {name: data[name] for name in _Cause.__annotations__ if name in data}  # type: ignore[return-value]
