"""Everything that can happen, as frozen facts. The core announces; logs, metrics and traces subscribe.

The core receives an `Emit` and knows nothing about who listens. `Events` is the usual one: it hands every
event to every subscriber, and a subscriber that fails harms neither the core nor the others.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""


_TEXTS = reprlib.Repr()  # also of what cannot make its own text
_TEXTS.maxother = 1000

Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing; the default where no `emit` is given."""


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
    """A server did not answer for so many *seconds* while it was waited for; its connections were broken off."""

    database: str
    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ClientReplaced(Event):
    """A client of a driver hung for so many *seconds* although its server answers; another one is used now."""

    database: str
    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeLeft(Event):
    """A node does not count any more: no session goes there until it answers again."""

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
    """Another node takes the writes now, or one does again; *epoch* counts promotions where servers tell."""

    database: str
    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class PrimaryLost(Event):
    """No node takes writes: readers go on, writers are refused at once."""

    database: str


@dataclass(frozen=True, slots=True)
class BookmarkUnknown(Event):
    """Nobody could tell how far the primary had got after a commit; reads of its author go to the primary."""

    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class MonitorFailed(Event):
    """One question to a node failed in an unexpected way; the next one is asked all the same."""

    database: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class SagaEvent(Event):
    """Something about one saga; the words are those of the journal."""

    saga_id: UUID
    saga: str


@dataclass(frozen=True, slots=True)
class SagaStarted(SagaEvent):
    """The start is durable; *joined* if the key stood for this saga already."""

    joined: bool


@dataclass(frozen=True, slots=True)
class StartParked(SagaEvent):
    """A start that was committed in *database* cannot be moved to the journal; it stays in the outbox there."""

    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class SagaDecided(SagaEvent):
    """The decision is durable: *status* is completing, completed or compensating."""

    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class SagaFinished(SagaEvent):
    """The saga is at rest: *status* is completed or compensated."""

    status: str
    seconds: float  # since this process began to drive it


@dataclass(frozen=True, slots=True)
class SagaParked(SagaEvent):
    """A person must look."""

    reason: str


@dataclass(frozen=True, slots=True)
class SagaRepaired(SagaEvent):
    """A person retried, skipped, compensated or resolved it; *status* is what it is now."""

    action: str
    status: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class SagaClaimed(SagaEvent):
    """A lease ran out and this process took over."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ClaimLost(SagaEvent):
    """Another process drives the saga now; this one stops."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SagaNotKnown(SagaEvent):
    """An overdue saga that this process has no definition of; it is left for one that has."""

    version: int


@dataclass(frozen=True, slots=True)
class StepEvent(SagaEvent):
    """Something about one step of one saga."""

    step: str
    database: str | None
    attempt: int


@dataclass(frozen=True, slots=True)
class StepDone(StepEvent):
    """The step's transaction is committed; *found* if an earlier run had committed it."""

    seconds: float
    found: bool


@dataclass(frozen=True, slots=True)
class StepFailed(StepEvent):
    """One attempt failed; *fault* is the database's, or `refused`, or `error`."""

    fault: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepCompensated(StepEvent):
    """The step is undone, or is known never to happen (*null*)."""

    null: bool


@dataclass(frozen=True, slots=True)
class WorkerTicked(Event):
    """One round of the worker: claims renewed, sagas taken over, sagas in flight."""

    renewed: int
    claimed: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class WorkerFailed(Event):
    """One round of the worker failed; the next one tries again."""

    reason: str


@dataclass(frozen=True, slots=True)
class SagasRemoved(Event):
    """Sagas that had been at rest for `sagas.retention` were removed, with their ledger rows."""

    count: int


@dataclass(frozen=True, slots=True)
class SubscriberFailed(Event):
    """A subscriber raised; the others were served."""

    subscriber: str
    reason: str


class Events:
    """The usual `emit`: give every event to every subscriber."""

    def __init__(self, *subscribers: Emit) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Emit) -> None:
        """Hand every later event to *subscriber*, which must be quick and must not block."""
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
