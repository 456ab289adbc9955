"""Why a saga is undone or parked, who drove it and which attempts its steps made: what people see of its row.

The journal keeps a `Reason` as JSON in `error`, and owners and attempts in `history`, in the order in which they
began and ended.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypeAlias

from pydantic_core import to_json

from polysaga.frozen import frozen
from polysaga.sagas.protocol.states import Status

DESERTED = "deserted"  # a kind of reason to park


@dataclass(frozen=True, slots=True, kw_only=True)
class _Why:
    """What a reason to undo a saga and a reason to park it have in common."""

    kind: str | None = None  # a verdict, such as `refused`, `failed` or `cancelled`
    step: str | None = None  # None: nothing that a step did
    message: str = ""
    code: str | None = None  # of a refusal
    facts: Any = None  # of a refusal, as JSON keeps them
    traceback: str | None = None

    @property
    def is_deserted(self) -> bool:
        """Whether process after process ended, or hung, while it drove the saga, and none brought it on."""
        return self.kind == DESERTED

    def to_json(self) -> dict[str, Any]:
        """Return the plain types that the journal stores, without missing values."""
        data: dict[str, Any] = {}
        if self.kind is not None:
            data["kind"] = self.kind
        if self.kind is not None or self.message:
            data["step"], data["message"] = self.step, self.message
        if self.code is not None:
            data["code"], data["facts"] = self.code, self.facts
        if self.traceback is not None:
            data["traceback"] = self.traceback
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking(_Why):
    """Why and since when a saga is parked, and the status it had before. *kind* is None if nothing was tried."""

    status: Status
    at: datetime | None = None  # by the clock of the process that parked it; None: an earlier version did

    def to_json(self) -> dict[str, Any]:
        """Return the plain types that the journal stores."""
        data = {**_Why.to_json(self), "from": self.status.value}
        return data if self.at is None else {**data, "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Parking":
        """Decode what `to_json` wrote."""
        at = data.get("at")
        parked_at = None if at is None else datetime.fromisoformat(at)
        return cls(status=Status(data["from"]), at=parked_at, **_cause_in(data))


@dataclass(frozen=True, slots=True)
class Resolution:
    """The person who ended a saga, and why."""

    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason(_Why):
    """Why a saga is undone, why it is parked, and how people repaired it; each may be missing.

    *kind* is None if the saga is not being undone.
    """

    parked: Parking | None = None
    resolved: Resolution | None = None
    undone_by_hand: tuple[str, ...] = ()  # steps whose record is the journal's row

    def parked_from(self, status: Status, trouble: "Reason", at: datetime | None = None) -> "Reason":
        """Return the reason of a saga that was in *status* and is parked for *trouble* since *at*."""
        return replace(self, parked=Parking(status=status, at=at, **_cause_in(_Why.to_json(trouble))))

    def without_tracebacks(self) -> "Reason":
        """Return the same in a few hundred bytes."""
        parked = None if self.parked is None else replace(self.parked, traceback=None)
        return replace(self, traceback=None, parked=parked)

    def to_json(self) -> dict[str, Any]:
        """Return the plain types that the journal stores, without missing values."""
        data = _Why.to_json(self)
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
            **_cause_in(data),
            parked=None if parked is None else Parking.from_json(parked),
            resolved=None if resolved is None else Resolution(resolved["by"], resolved["why"]),
            undone_by_hand=tuple(data.get("undone_by_hand", ())),
        )

    @classmethod
    def decoded(cls, text: str | None) -> "Reason | None":
        """Decode the journal's column `error`."""
        return None if text is None else cls.from_json(json.loads(text))

    def encoded(self) -> str:
        """Return the text for the journal's column `error`."""
        # By `json`: the text of a program's own error may contain half a surrogate pair, which pydantic refuses.
        return json.dumps(self.to_json())


@frozen
class Attempt:
    """One attempt of one step, or of its compensation."""

    step: str
    phase: str  # do, undo
    attempt: int  # from 1 on, in one process
    at_ms: float  # milliseconds since the saga was started; in rows of 0.1 since the process began to drive it
    ms: float  # milliseconds that it took
    outcome: str  # done, found (the step had happened before), null (nothing to undo), or what went wrong
    said: str | None = None  # what the error said, at most 300 characters; None: no error

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
    "said": None,
}


@frozen
class Tenure:
    """One owner of a saga: the process that started it, or one that took it over."""

    epoch: int
    at_ms: float  # milliseconds since the saga was started, by the journal's clock
    process: str  # host and process id, such as web-1:4121


HistoryEntry: TypeAlias = Attempt | Tenure


def encoded_history(history: Sequence[HistoryEntry]) -> str:
    """Return the text for the journal's column `history`."""
    # Inside of a JSON string these quotation marks would be escaped.
    return to_json(history).decode().replace(',"said":null', "")


def decoded_history(text: str | None) -> list[HistoryEntry]:
    """Decode the journal's column `history`."""
    return [_entry(one) for one in json.loads(text or "[]")]


def attempts_in(history: Iterable[HistoryEntry]) -> tuple[Attempt, ...]:
    """Return the attempts of *history*."""
    return tuple(one for one in history if isinstance(one, Attempt))


def tenures_in(history: Iterable[HistoryEntry]) -> tuple[Tenure, ...]:
    """Return the owners in *history*."""
    return tuple(one for one in history if isinstance(one, Tenure))


def _entry(data: Mapping[str, Any]) -> HistoryEntry:
    if "epoch" in data:
        return Tenure(data["epoch"], data.get("at_ms", 0.0), data.get("process", "?"))
    return Attempt.from_json(data)


def _cause_in(data: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: data[one.name] for one in fields(_Why) if one.name in data}
