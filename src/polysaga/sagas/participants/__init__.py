"""What a database promises to a saga: a step and its ledger row are one transaction.

Action: the user's code, then as the *last* statement the row `done` with the result, then COMMIT. The row goes
in last on every attempt: it carries the result, and mixed orders would deadlock two owners of one step.

Compensation: first the row. If there is none, `blocked` is inserted: the action never committed here and now
never can. If there is one, it is locked; if it is `done`, the user's compensation runs and the row becomes
`compensated`.

Unknown outcomes: a row that is found settles what happened. A missing row settles nothing, because the COMMIT may
still be under way. Only a write settles absence: the same insert again, or `blocked`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from polysaga.databases import Fault, Node
from polysaga.frozen import frozen
from polysaga.sagas.participants.outboxes import Outbox
from polysaga.sagas.protocol.contradictions import Record
from polysaga.sagas.protocol.rows import LedgerRow

Work: TypeAlias = Callable[[Any], Awaitable[str]]  # runs the user's step; returns its result as JSON
# Runs the user's compensation on that result; the result is None if it is unknown whether there is one.
UndoWork: TypeAlias = Callable[[Any, str | None], Awaitable[None]]


@frozen
class Entry:
    """What a ledger row says besides its state."""

    saga_id: UUID
    step: str
    epoch: int
    not_after: datetime  # the fence: past this moment the row is refused


class Participant(Protocol):
    """One database as seen by sagas; there are four kinds and one conformance suite for all."""

    @property
    def node(self) -> Node:
        """The primary."""

    async def act(self, entry: Entry, work: Work, *, bare: bool = False) -> str:
        """Run *work* and record it `done`, as one transaction; return the result.

        With *bare* an SQL database lends it a connection in place of a session.

        Raises what the work or the database raised, after a rollback: read the row before judging the error.
        """

    async def undo(self, entry: Entry, work: UndoWork | None, *, bare: bool = False) -> LedgerRow:
        """Make sure that the step is undone or never happens, as one transaction.

        Return the row as it was before, or a `blocked` one if there was none. With *work* None a `done` step stays
        done; this is how a pivot is blocked, or found committed. Raises `Fenced` past the fence: by then the
        rows may have been removed, and a row that is found belongs to a later saga with the same key.
        """

    async def look(self, saga_id: UUID, steps: Sequence[str]) -> Mapping[str, LedgerRow]:
        """Return the existing rows of *steps*, as committed on the primary."""

    @property
    def outbox(self) -> Outbox:
        """The starts that were committed here, until a drain moves them to the journal."""

    async def page(self, after: UUID, upto: UUID, most: int) -> Sequence[Record]:
        """Return the first *most* rows of the sagas whose ids are above *after* and not above *upto*.

        Ids sort alike everywhere: as UUIDs on PostgreSQL, as bytes on MySQL and MariaDB, as their text on SQLite
        and MongoDB.
        """

    async def records(self, saga_ids: Collection[UUID]) -> Sequence[Record]:
        """Return all rows of *saga_ids*, which are a few hundred at most."""

    async def remove(self, saga_ids: Collection[UUID], older: timedelta) -> None:
        """Remove the rows of *saga_ids* that were written longer than *older* ago; harmless when repeated."""

    async def check(self, now: datetime) -> None:
        """Raise `SchemaMissing` if the ledger or the outbox is missing or incomplete.

        *now* is the time of this process: raise `ConfigurationError` if it is so far behind the database's that
        the ledger would refuse every row.
        """

    def fault(self, error: BaseException) -> Fault | None:
        """Classify *error*; return None if it is not an error of the database."""
