"""The views of sagas that people get."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from polysaga.sagas.journal.claims import CRASHES, PAUSE, TOLERATED
from polysaga.sagas.protocol.reasons import Attempt, Parking, Reason, Tenure
from polysaga.sagas.protocol.states import Status, as_status


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFilter:
    """Which sagas to find; None or an empty value does not filter. *older_than* is in seconds since the start.

    *error* is searched for in the reason, ignoring case. *known* selects by whether this process has the
    definition that the saga was started with. A *key* without a *name* is searched for under the names that this
    process knows. *step* is the one that failed last, or because of which the saga is undone or parked; *database*
    is that of such a step, as this process's definitions say. *since* and *until* bound the start of the saga.

    *retrying*, *late*, *waiting* and *crashing* find unfinished sagas only. The last attempt of a retrying one
    failed. A late one was due two leases ago, and no process has taken it over. A waiting one is put aside until
    it wakes. While a crashing one was driven, three processes in a row ended or hung.

    A status may be its text, e.g. "needs_attention". Methods that take a filter raise `PayloadError` for a value
    that makes no sense.
    """

    name: str | None = None
    status: Status | str | Collection[Status | str] = ()
    key: str | None = None
    error: str | None = None
    older_than: float | None = None
    known: bool | None = None
    step: str | None = None
    database: str | None = None
    since: datetime | None = None  # aware; included
    until: datetime | None = None  # aware; excluded
    retrying: bool = False
    late: bool = False
    waiting: bool = False
    crashing: bool = False
    ids: Collection[UUID] | None = None
    oldest_first: bool = False

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses asked for; all if empty. Raises `PayloadError` for a text that is none."""
        given = (self.status,) if isinstance(self.status, str) else self.status or ()
        return tuple(map(as_status, given))

    def to_repair(self) -> "SagaFilter":
        """Return the filter of a repair: parked sagas only, unless this one says in what state they are."""
        says = self.statuses or self.retrying or self.late or self.waiting
        return self if says else replace(self, status=Status.NEEDS_ATTENTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaSummary:
    """One saga as a list shows it."""

    id: UUID
    name: str
    version: int
    key: str | None
    status: Status
    known: bool  # this process has the definition that the saga was started with
    error: Reason | None  # why it is undone or parked
    epoch: int
    owner: UUID | None  # new with every claim; None: put aside, no process drives it until it wakes
    wake_at: datetime | None  # when its claim runs out or it is tried again; None: at rest, or parked
    deadline: datetime | None
    expiries: int  # claims lost in a row without any progress
    created_at: datetime
    finished_at: datetime | None
    retried: str | None  # the step whose last attempt failed, in a saga that moves

    @property
    def reason(self) -> str | None:
        """Why it is parked, or else why it is undone."""
        told = self._told
        return None if told is None else told.message or None

    @property
    def step(self) -> str | None:
        """The step that `reason` is about."""
        told = self._told
        return None if told is None else told.step

    @property
    def parked_from(self) -> Status | None:
        """The status of a parked saga before it was parked; it shows the direction."""
        return None if self.error is None or self.error.parked is None else self.error.parked.status

    @property
    def parked_at(self) -> datetime | None:
        """Since when a parked saga is parked; None if an earlier version parked it."""
        return None if self.error is None or self.error.parked is None else self.error.parked.at

    @property
    def crashing(self) -> bool:
        """Whether three processes in a row ended or hung while they drove it."""
        return self.status.moving and self.expiries >= CRASHES

    def late_by(self, now: datetime, lease: float) -> float | None:
        """Return for how many seconds it has been due; None unless that is too long for a process that is up.

        *now* is by the journal's clock, *lease* the program's `sagas.lease`.
        """
        if self.wake_at is None:
            return None
        seconds = (now - self.wake_at).total_seconds()
        return seconds if seconds > TOLERATED * (PAUSE if self.owner is None else lease) else None

    def as_dict(self) -> dict[str, Any]:
        """Return all facts by name, the reason as the journal keeps it: what the command line and HTTP print."""
        error = None if self.error is None else self.error.to_json()
        told = {"error": error, "reason": self.reason, "step": self.step, "parked_at": self.parked_at}
        return {**asdict(self), **told}

    @property
    def _told(self) -> Reason | Parking | None:
        return None if self.error is None else self.error.parked or self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What a person did to a saga."""

    at: datetime
    by: str
    action: str
    why: str
    details: Mapping[str, Any]  # what was asked for, and status, epoch and error before and after

    @property
    def error_before(self) -> Reason | None:
        """Why the saga was undone or parked when the person acted."""
        before = self.details.get("before")
        error = before.get("error") if isinstance(before, Mapping) else None
        return Reason.from_json(error) if error else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which acts to find; None does not filter. A *key* is searched for as by `SagaFilter`."""

    by: str | None = None
    action: str | None = None
    saga_id: UUID | None = None
    key: str | None = None
    batch: UUID | None = None
    since: datetime | None = None  # aware; included
    until: datetime | None = None  # aware; excluded


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaState(SagaSummary):
    """One saga as the journal, or this process if it drives it, knows it now."""

    driven_here: bool
    input: str  # as JSON
    results: Mapping[str, str]  # as JSON, by step: of the steps whose record is the journal
    history: tuple[Attempt, ...]  # its attempts; if more than 200, the first 50 and the last 150
    owners: tuple[Tenure, ...]  # who drove it; of a saga that is started now, as soon as its history is written
    audit: tuple[AuditEntry, ...]
    trace_id: str | None = None  # of its trace, 32 hexadecimal digits; None: it is not traced

    @property
    def repaired(self) -> AuditEntry | None:
        """The last act of a person on it while it was parked."""
        acts = (one for one in reversed(self.audit) if one.error_before is not None and one.error_before.parked)
        return next(acts, None)

    @property
    def parked_for(self) -> Reason | None:
        """Why it is parked, or was before the last repair."""
        if self.status is Status.NEEDS_ATTENTION:
            return self.error
        return None if self.repaired is None else self.repaired.error_before


@dataclass(frozen=True, slots=True)
class SagaPage:
    """Sagas, the newest first; *next* is the `after` of the following page, None on the last one.

    If a search has read its share of the journal before the page was full, *searched_to* is when the oldest saga
    that it has read was started. Older ones may match too, and *next* goes on behind it; the page may be empty.
    Otherwise *searched_to* is None.
    """

    sagas: tuple[SagaSummary, ...]
    next: str | None
    searched_to: datetime | None = None
