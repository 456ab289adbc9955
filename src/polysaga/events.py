"""Everything that can happen, as frozen facts. The core announces; logs, metrics and traces subscribe.

The core receives an `Emit` and does not know its listeners. `Events` is the usual one: it passes every event to
every subscriber. A subscriber that fails harms neither the core nor the others.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""


_TEXTS = reprlib.Repr()  # works even if an object's own `__repr__` raises
_TEXTS.maxother = 1000

Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop *event*; the default where no `emit` is given."""


@dataclass(frozen=True, slots=True)
class DatabaseOpened(Event):
    """The pools of *database* are ready; *nodes* are URLs without passwords, the primary first."""

    database: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplicaUnreachable(Event):
    """A replica did not answer; reads go elsewhere."""

    database: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServerSilent(Event):
    """A server left a waiting caller without an answer for *seconds*; its connections were closed."""

    database: str
    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ClientReplaced(Event):
    """A driver's client hung for *seconds* although its server answers; it was replaced."""

    database: str
    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeLeft(Event):
    """A node is out of use: no session goes there until it answers again."""

    database: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeReturned(Event):
    """A node answers again."""

    database: str
    node: str


@dataclass(frozen=True, slots=True)
class PrimaryChanged(Event):
    """Another node takes writes now, or a node does again; *epoch* counts promotions if servers report them.

    *before* is the node that took writes last; None when the database was opened just now.
    """

    database: str
    node: str
    epoch: int
    before: str | None = None


@dataclass(frozen=True, slots=True)
class PrimaryLost(Event):
    """No node takes writes: readers go on, writers are refused at once."""

    database: str


@dataclass(frozen=True, slots=True)
class BookmarkUnknown(Event):
    """The primary's position after a commit is unknown; the author's reads go to the primary."""

    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadWaited(Event):
    """A reader waited *seconds* for a replica to catch up, in vain or not."""

    database: str
    seconds: float


@dataclass(frozen=True, slots=True)
class MonitorFailed(Event):
    """One probe of a node failed in an unexpected way; probing continues."""

    database: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class SagaEvent(Event):
    """Something happened to one saga; the terms are those of the journal."""

    saga_id: UUID
    saga: str


@dataclass(frozen=True, slots=True)
class SagaStarted(SagaEvent):
    """The start is durable; *joined*: the key already named this saga."""

    joined: bool


@dataclass(frozen=True, slots=True)
class StartParked(SagaEvent):
    """A start committed in *database* could not be moved to the journal; it stays in that database's outbox."""

    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class SagaDecided(SagaEvent):
    """The decision is durable: *status* is completing, completed or compensating."""

    status: str
    reason: str | None
    seconds: float = 0.0  # since the saga was started


@dataclass(frozen=True, slots=True)
class SagaFinished(SagaEvent):
    """The saga has ended: *status* is completed or compensated."""

    status: str
    seconds: float  # since the saga was started


@dataclass(frozen=True, slots=True)
class SagaParked(SagaEvent):
    """The saga was parked; a person must look at it."""

    reason: str


@dataclass(frozen=True, slots=True)
class SagaRepaired(SagaEvent):
    """A person retried, skipped, compensated or resolved the saga; *status* is its new status."""

    action: str
    status: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class SagaClaimed(SagaEvent):
    """A lease expired and this process took over."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ClaimLost(SagaEvent):
    """Another process drives the saga now; this one stops."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SagaNotKnown(SagaEvent):
    """An overdue saga was left to another process, because this one has no definition of it."""

    version: int


@dataclass(frozen=True, slots=True)
class StepEvent(SagaEvent):
    """Something happened to one step of one saga."""

    step: str
    database: str | None
    attempt: int


@dataclass(frozen=True, slots=True)
class StepDone(StepEvent):
    """The step's transaction is committed; *found*: an earlier run had committed it."""

    seconds: float
    found: bool


@dataclass(frozen=True, slots=True)
class StepFailed(StepEvent):
    """One attempt failed; *fault* is the database's fault, or `refused`, or `error`; *phase* is `do` or `undo`."""

    fault: str
    reason: str
    phase: str = "do"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StepCompensated(StepEvent):
    """The step is undone, or can no longer happen (*null*)."""

    null: bool
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerTicked(Event):
    """One round of the worker ended: claims renewed, sagas taken over, sagas in flight."""

    renewed: int
    claimed: int
    in_flight: int
    seconds: float = 0.0  # that the round took


@dataclass(frozen=True, slots=True)
class BatchWritten(Event):
    """One commit wrote *count* starts or finishes to the journal; *what* is `starts` or `finishes`."""

    what: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerFailed(Event):
    """One round of the worker failed; the next one tries again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Migration(Event):
    """One line of history in one database: the revision found there, and the one this program needs.

    *current* is None if nothing of the line exists yet. As an event it means that the migration was done.
    """

    database: str
    line: str
    current: str | None
    head: str

    @property
    def needed(self) -> bool:
        """Return whether the database is behind the program."""
        return self.current != self.head


@dataclass(frozen=True, slots=True)
class TablesAhead(Event):
    """A database was migrated by a later version of Polysaga, to *current*; this one knows up to *head*."""

    database: str
    line: str
    current: str
    head: str


@dataclass(frozen=True, slots=True)
class SagasLeft(Event):
    """A process ended before some of its sagas; another process goes on with them."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class SagasRemoved(Event):
    """Sagas that had been at rest for `sagas.retention` were removed, with their ledger rows."""

    count: int


@dataclass(frozen=True, slots=True)
class SubscriberFailed(Event):
    """A subscriber raised; the other subscribers received the event."""

    subscriber: str
    reason: str


class Events:
    """The usual `emit`: pass every event to every subscriber."""

    def __init__(self, *subscribers: Emit) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Emit) -> None:
        """Pass every later event to *subscriber*, which must be quick and must not block."""
        self._subscribers.append(subscriber)

    def __call__(self, event: Event) -> None:
        """Announce *event*."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - border: a broken listener must not break a saga
                if not isinstance(event, SubscriberFailed):
                    name = getattr(subscriber, "__name__", None) or _TEXTS.repr(subscriber)
                    self(SubscriberFailed(name, _TEXTS.repr(error)))
