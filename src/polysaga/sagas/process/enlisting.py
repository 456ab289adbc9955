"""Starting a saga in a transaction of the caller: the saga exists if and only if that transaction commits.

In the journal's database the journal row itself is written there, due at once. In another participant's it is a
row of the outbox, which a drain moves to the journal (`participants/outboxes.py`). Either way no process drives
the saga before the commit, and afterwards any process does. On SQL databases the session tells this process of
the commit, and its worker looks at once; all others, and this one for MongoDB, look at their next tick. The
journal row of such a saga is born alone: its first step runs later, like all others, whichever database it is in.

A key is checked where its row is. The caller gets `KeyReused` at once if the journal or this outbox has the key
with another input. If two databases take one key with different inputs at the same moment, both commit; the
drain parks the second one in its outbox.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, RootTransaction, event
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from polysaga.databases import MongoSession
from polysaga.databases.dialects.sending import sender
from polysaga.databases.dialects.sql import LOAN
from polysaga.databases.sql_node import BOUND_TO
from polysaga.errors import Busy, DatabaseUnavailable, NotEnlisted, NotStarted, OutcomePending
from polysaga.events import SagaStarted
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.participants.lending import StepConnection
from polysaga.sagas.participants.loans import Loan
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.participants.outboxes import Outbox, Waiting, birth_of, waiting_of
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.process.handle import SagaHandle
from polysaga.sagas.process.loop import pauses
from polysaga.sagas.process.runner import LocalRunner
from polysaga.sagas.protocol.rows import Birth, Row

Transaction: TypeAlias = AsyncSession | StepConnection | MongoSession

_OPEN = "its transaction is not committed yet; commit it first"
_GONE = "its transaction was rolled back"
_FATES = "polysaga.fates"


@dataclass(slots=True)
class Fate:
    """What this process knows of the transaction that carries the start of a saga."""

    saga_id: UUID
    committed: Callable[[], None]
    transaction: RootTransaction
    undone: bool = False  # with a savepoint
    is_told: bool = False  # that the transaction is over

    @property
    def open(self) -> bool:
        """Whether the transaction is under way."""
        return not self.is_told and self.transaction.is_active

    def __call__(self, committed: bool) -> None:  # noqa: FBT001 - a loan calls it
        """Note that the transaction is over."""
        self.is_told = True
        if committed and not self.undone:
            self.committed()


class Enlisting:
    """Writes starts into callers' transactions."""

    def __init__(self, runner: LocalRunner) -> None:
        self._runner, self._engine = runner, runner.engine
        self._outboxes = self._engine.outboxes

    async def start(self, definition: Definition, value: Any, key: str | None, tx: object) -> SagaHandle[Any]:
        """Start a saga with the commit of *tx*, or join the one that *key* started."""
        tx = _checked(tx)
        birth = self._runner.birth(definition, value, key)
        if self._engine.tracing is not None:
            birth = replace(birth, trace=self._engine.tracing.enlist(birth))
        saga_id = birth.claim.saga_id
        database = await self._database_of(tx)
        outbox = self._outboxes.get(database)
        if outbox is None:
            assert not isinstance(tx, MongoSession), "the journal is in an SQL database"
            new, found = await self._put_in_journal(await _connection_of(tx), birth)
        else:
            new, found = await self._put_in_outbox(outbox, tx, birth)
        self._runner.check_same(definition, birth, found)
        fate = None
        if not isinstance(tx, MongoSession):
            fate = await _fate_in(tx, saga_id, (lambda: self._committed(birth, outbox)) if new else None)
        appears = partial(self._appears, definition, birth, fate, tx, outbox)

        async def wait() -> Any:
            await self._runner.while_open(appears(), OutcomePending(saga_id, definition.name))
            return await self._runner.handle(definition, saga_id).result()

        async def cancel(why: str) -> None:
            await self._runner.while_open(appears(), Busy(0, 0.0))
            await self._runner.cancel(saga_id, why)

        return SagaHandle(saga_id, definition.name, wait, cancel, joined=not new)

    async def _put_in_journal(self, connection: AsyncConnection, birth: Birth) -> tuple[bool, Birth | Row]:
        """Insert the journal row unless it exists; return whether it is new, and what it says."""
        send = sender(connection)
        new, hashed = await self._engine.journal.enlist(send, birth)
        if hashed == birth.input_hash:
            return new, birth
        stored, fingerprint = await self._engine.journal.input_of(send, birth.claim.saga_id)
        return new, replace(birth, input_hash=hashed, input=stored, fingerprint=fingerprint)

    async def _put_in_outbox(self, outbox: Outbox, tx: Transaction, birth: Birth) -> tuple[bool, Birth | Row]:
        """Insert the outbox row unless the journal or the outbox has the key; return as `_put_in_journal` does."""
        row = None if birth.key is None else await self._known(birth.claim.saga_id)
        if row is not None:
            return False, row
        new, waiting = await outbox.put(tx, waiting_of(birth))
        return new, birth_of(waiting)

    def _committed(self, birth: Birth, outbox: Outbox | None) -> None:
        if outbox is None:
            self._engine.emit(SagaStarted(birth.claim.saga_id, birth.name, joined=False))
            self._runner.due.set()
        else:
            outbox.news.set()

    async def _appears(
        self, definition: Definition, birth: Birth, fate: Fate | None, tx: Transaction, outbox: Outbox | None
    ) -> None:
        """Return when the journal has the saga; raise if it will not."""
        saga_id = birth.claim.saga_id
        for pause in pauses():
            if fate is not None and fate.open:
                raise NotStarted(saga_id, birth.name, _GONE if fate.undone else _OPEN)
            live = self._runner.executions.get(saga_id)
            found: Birth | Row | None = None if live is None else live.progress.birth
            # First the outbox: a start that is in neither of them now was never committed. A MongoDB session in a
            # transaction would read its own uncommitted rows.
            asked = None if live is not None or _in_transaction(tx) else outbox
            waiting = None if asked is None else await self._waiting(asked, saga_id)
            with explaining(self._engine.journal.node, "journal"):
                found = found or await self._runner.load(saga_id)
            if found is not None:
                self._runner.check_same(definition, birth, found)
                return
            if waiting is None:
                raise NotStarted(saga_id, birth.name, _OPEN if _in_transaction(tx) else _GONE)
            if waiting.error is not None:
                raise NotStarted(saga_id, birth.name, waiting.error)
            assert outbox is not None
            outbox.news.set()
            await self._engine.clock.sleep(pause)

    async def _waiting(self, outbox: Outbox, saga_id: UUID) -> Waiting | None:
        with explaining(self._engine.participants[outbox.database].node, "ledger"):
            return await outbox.find(saga_id)

    async def _known(self, saga_id: UUID) -> Row | None:
        """Return the journal row, if the journal can be asked now; the drain asks it in any case."""
        try:
            return await self._engine.journal.load(saga_id)
        except (DBAPIError, PoolTimeout, DatabaseUnavailable) as error:
            fault = self._engine.home_participant.fault(error)
            if fault is None or not fault.transient:
                raise
            return None

    async def _database_of(self, tx: Transaction) -> str:
        """Return the name of the participant that *tx* is a transaction of; raise `NotEnlisted` if of none."""
        database = self._owner_of(tx) if isinstance(tx, MongoSession) else await _bound_to(tx)
        if database not in self._engine.participants:
            known = ", ".join(self._engine.participants)
            raise NotEnlisted(f"it is no session of a database that takes part in sagas (these do: {known})")
        return database

    def _owner_of(self, tx: MongoSession) -> str:
        if not tx.client_session.in_transaction:
            raise NotEnlisted("this MongoDB session has no transaction; begin one: `async with db.transaction()`")
        for name, participant in self._engine.participants.items():
            if isinstance(participant, MongoParticipant) and participant.node.client is tx.client_session.client:
                return name
        return ""


def _checked(tx: object) -> Transaction:
    """Return *tx* if it is of a kind that can carry a start; raise `NotEnlisted` otherwise."""
    if isinstance(tx, StepConnection):
        if not tx.loan.lent:
            raise NotEnlisted("the step that this connection was lent to has ended")
        return tx
    if isinstance(tx, AsyncSession | MongoSession):
        return tx
    if isinstance(tx, AsyncConnection):
        raise NotEnlisted("no step was given this connection: give the session that it belongs to")
    raise NotEnlisted(
        f"this is a {type(tx).__name__}: give the AsyncSession or MongoSession of a writer, or what a step got"
    )


async def _connection_of(tx: AsyncSession | StepConnection) -> AsyncConnection:
    if isinstance(tx, StepConnection):
        return tx
    try:
        return await tx.connection()
    except UnboundExecutionError as error:
        raise NotEnlisted("this session is bound to no database") from error


async def _bound_to(tx: AsyncSession | StepConnection) -> str:
    """Return the name of the database that *tx* writes to; raise `NotEnlisted` if it has no transaction."""
    connection = await _connection_of(tx)
    assert connection.sync_connection is not None
    known = connection.sync_connection.get_execution_options()
    database, reads = known.get(BOUND_TO, ("", False))
    if reads:
        raise NotEnlisted(f"this session of '{database}' only reads: take one from {database}.writer()")
    if known.get("isolation_level") == "AUTOCOMMIT":
        raise NotEnlisted(f"this session of '{database}' has no transaction, it commits every statement")
    return str(database)


def _in_transaction(tx: Transaction) -> bool:
    return isinstance(tx, MongoSession) and bool(tx.client_session.in_transaction)


def _fates_of(
    tx: AsyncSession | StepConnection, connection: Connection
) -> list[Fate] | list[Callable[[bool], None]]:
    """Return what is called when the transaction of *tx* has ended; the fates of its starts are in it."""
    loan: Loan | None = connection.info.get(LOAN)
    if loan is not None:
        return loan.ends  # also of a session that the step itself has made on its connection
    assert isinstance(tx, AsyncSession)
    session: Session = tx.sync_session
    fates: list[Fate] | None = session.info.get(_FATES)
    if fates is None:
        fates = session.info[_FATES] = []
        event.listen(session, "after_commit", _after_commit)
        event.listen(session, "after_transaction_end", _after_end)
    return fates


def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():  # else a savepoint was released
        _tell_end(session, committed=True)


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _tell_end(session, committed=False)


def _tell_end(session: Session, *, committed: bool) -> None:
    fates: list[Fate] = session.info[_FATES]
    for fate in fates:
        if not fate.transaction.is_active:  # else the session only takes part in a transaction of its connection
            fate(committed=committed)
    fates.clear()


async def _fate_in(
    tx: AsyncSession | StepConnection, saga_id: UUID, committed: Callable[[], None] | None
) -> Fate | None:
    """Return what becomes of the start of a saga in *tx*; None if it was joined and *tx* did not start it either.

    *committed* is called after the commit of a start that is new.
    """
    connection = (await _connection_of(tx)).sync_connection
    assert connection is not None
    fates = _fates_of(tx, connection)
    if committed is not None:
        fate = _fate(connection, saga_id, committed)
        fates.append(fate)
        return fate
    ours = (one for one in fates if isinstance(one, Fate) and one.saga_id == saga_id and not one.undone)
    return next(ours, None)


def _fate(connection: Connection, saga_id: UUID, committed: Callable[[], None]) -> Fate:
    """Return the fate of a start on *connection*, undone with any savepoint that is open now."""
    transaction = connection.get_transaction()
    assert transaction is not None
    fate = Fate(saga_id, committed, transaction)
    names, nested = set[str](), connection.get_nested_transaction()
    while nested is not None:
        names.add(nested._savepoint)  # noqa: SLF001 - all that the event tells of the savepoint is its name
        nested = nested._previous_nested  # noqa: SLF001
    if names:

        @event.listens_for(connection, "rollback_savepoint")
        def rolled_back(_: Connection, name: str, context: None) -> None:
            fate.undone = fate.undone or name in names

    return fate
