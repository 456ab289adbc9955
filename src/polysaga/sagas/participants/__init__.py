"""What a database promises to a saga: a step and its ledger row are one transaction.

Action: the user's code, then as the *last* statement the row `done` with the result, then COMMIT. The row goes
in last on every attempt: it carries the result, and mixing orders would deadlock two owners of one step.

Compensation: first the row. `blocked` is inserted if there was none: the action never committed here and now
never can. If there is one, it is locked; `done` runs the user's compensation and becomes `compensated`.

Unknown outcomes: finding a row settles what happened, not finding one settles nothing, for the COMMIT may
still be on its way. Only a write settles absence: the same insert again, or `blocked`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from polysaga.databases import Fault, Node
from polysaga.sagas.participants.outboxes import Outbox
from polysaga.sagas.protocol.contradictions import Record
from polysaga.sagas.protocol.states import Mark

Work: TypeAlias = Callable[[Any], Awaitable[str]]  # runs the user's step; returns its result as JSON
# Runs the user's compensation on that result; None if it is not known whether there is one.
UndoWork: TypeAlias = Callable[[Any, str | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a ledger row says besides its state."""

    saga_id: UUID
    step: str
    epoch: int
    not_after: datetime  # the fence: past this moment the row is refused


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One row as it was found."""

    state: Mark
    result: str | None


class Participant(Protocol):
    """One database as seen by sagas; four of them exist, and one conformance suite."""

    @property
    def node(self) -> Node:
        """The primary."""

    async def act(self, entry: Entry, work: Work) -> str:
        """Run *work* and record it `done`, as one transaction; return the result.

        Raises whatever the work or the database raised, after a rollback: look at the row before judging.
        """

    async def undo(self, entry: Entry, work: UndoWork | None) -> LedgerRow:
        """Make sure that the step is undone or never happens, as one transaction.

        Return the row as it was found before, or a `blocked` one if there was none. *work* None leaves a
        step that is `done` alone: that is how a pivot is blocked, or found committed. Raises `Fenced` past the
        fence: by then the rows may be removed, and those found belong to a saga that has taken the same key.
        """

    async def look(self, saga_id: UUID, steps: Sequence[str]) -> Mapping[str, LedgerRow]:
        """Return the rows of *steps* that exist, as committed on the primary."""

    @property
    def outbox(self) -> Outbox:
        """Where starts wait that were committed here, until a drain moves them to the journal."""

    async def page(self, after: UUID, upto: UUID, most: int) -> Sequence[Record]:
        """Return the first *most* rows of the sagas whose ids are above *after* and not above *upto*.

        Ids sort alike everywhere: as UUIDs on PostgreSQL, as bytes on MySQL and MariaDB, as their text on SQLite
        and MongoDB.
        """

    async def remove(self, saga_ids: Collection[UUID], older: timedelta) -> None:
        """Remove the rows of *saga_ids* that were written longer than *older* ago; harmless when repeated."""

    async def check(self) -> None:
        """Raise `SchemaMissing` if the ledger and the outbox are not there as they must be."""

    def fault(self, error: BaseException) -> Fault | None:
        """Recognise *error*; None if it is not the database's."""
