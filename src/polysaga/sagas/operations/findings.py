"""What people are shown of the sagas of all processes, as data; `inspector.py` finds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from polysaga.sagas.journal.views import SagaState, SagaSummary
from polysaga.sagas.protocol.contradictions import Contradiction
from polysaga.sagas.protocol.plans import Planned
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Parked sagas that have one reason."""

    LONGEST: ClassVar[int] = 300  # characters of `message`, and so of `error`

    name: str
    step: str | None
    database: str | None  # of the step
    direction: Status  # what they were when they were parked
    message: str  # the first line of the reason; … stands for what differs from saga to saga
    example_message: str
    count: int
    first_at: datetime | None  # when the first and the last of them were parked; None: earlier versions did
    last_at: datetime | None
    example: UUID
    error: str  # for `SagaFilter.error`: the longest part of the reason that they have in common
    deserted: bool  # their processes ended or hung, one after the other
    uniform: bool  # all have the message of the example


@dataclass(frozen=True, slots=True, kw_only=True)
class LateGroup:
    """Unfinished sagas of one version that no process has taken over in time."""

    name: str
    version: int
    known: bool  # this process has the definition
    status: Status
    count: int
    since: datetime  # when the first of them was due
    example: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is unfinished, in the journal."""

    at: datetime  # by the journal's clock
    unfinished: Mapping[Status, int]
    waiting: int  # put aside: no process drives them until they wake
    crashing: int  # while they were driven, three processes in a row ended or hung
    late: tuple[LateGroup, ...]
    causes: tuple[Cause, ...]  # the largest first
    causes_complete: bool  # False: only the first 5,000 parked sagas are grouped
    oldest: tuple[SagaSummary, ...]  # that are not parked, the oldest first


@dataclass(frozen=True, slots=True)
class Count:
    """How many sagas a filter finds; at least so many if not *exact*."""

    number: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """One step as the program declares it."""

    name: str
    kind: Literal["compensatable", "pivot", "retriable"]
    database: str | None
    after: tuple[str, ...]
    does: str | None  # the docstring of the step
    undoes: str | None  # the docstring of its compensation
    undoable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLook:
    """What one database says of one saga: a row for each step that has one there."""

    database: str
    is_journal: bool  # its rows of fused steps are the journal's row itself
    rows: Mapping[str, LedgerRow] = field(default_factory=dict)
    problem: str | None = None  # why the database could not be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One repair of one saga: where it leads, or why it is refused."""

    action: str
    step: str | None = None  # of `skip`
    outcome: Status | None = None  # of `resolve`
    after: Status | None = None  # None if it is refused
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One saga with what the program and all databases say of it."""

    saga: SagaState
    at: datetime  # by the journal's clock
    late: bool  # it was due, and no process has taken it over in time
    steps: tuple[StepFacts, ...]  # in the definition's order; none if this process does not know the version
    looks: tuple[LedgerLook, ...]
    contradictions: tuple[Contradiction, ...]
    moves: tuple[Planned, ...]  # what comes next if nothing fails; for a parked saga, after a retry
    options: tuple[Option, ...]
    alike: int  # other sagas that are parked for the reason for which it is, or was; at most 5,000 are compared
    removed_at: datetime | None  # when a saga at rest is removed; None: not at rest


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One act of a person on one saga, or on many in a batch."""

    at: datetime  # of the last saga of a batch
    by: str
    action: str
    why: str
    saga_id: UUID  # of a batch: the last one
    saga: str | None  # its name, None if it was removed since
    details: Mapping[str, object]
    batch: UUID | None = None
    count: int = 1  # sagas


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Acts, the newest first; *next* is the `after` of the following page, None on the last one."""

    lines: tuple[AuditLine, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Frozen:
    """The sagas that a filter found at one moment; not *complete*: there are more."""

    ids: tuple[UUID, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How far a repair of many sagas is."""

    id: UUID
    action: str
    by: str
    why: str
    total: int | None  # None: another process works on it, or did
    done: int
    refused: Mapping[str, int]  # why, and how many; of a batch of another process they are not known
    began_at: datetime
    ended_at: datetime | None
    here: bool  # this process works on it
    problem: str | None  # why it ended before it was through, such as a journal that does not answer
    stopped_by: str | None  # the person who stopped it; of a batch of another process it is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """How the sagas that a batch has repaired stand now."""

    numbers: Mapping[Status, int]
    removed: int  # that had been at rest for the retention time
    examples: tuple[SagaSummary, ...]  # the last 200, those that are parked or under way before others
    complete: bool  # False: it is not known of those that the batch repaired after its first 10,000
