"""Sessions lent for a block: they always end clean, and raise errors about their node as Polysaga's own.

A session is committed at the end of a block that succeeded, and rolled back after an error or a cancellation. Its
connection is returned in any case.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy import Connection, event
from sqlalchemy.exc import (
    DBAPIError,
    IllegalStateChangeError,
    InvalidRequestError,
    PendingRollbackError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from polysaga.clock import Clock
from polysaga.databases.dialects.sql import SESSION
from polysaga.databases.endings import end_here
from polysaga.databases.pools import ORIGIN, Origin
from polysaga.databases.single_writer import exhausted, refuse_if_held
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import (
    DatabaseUnavailable,
    NoPrimary,
    PoolExhausted,
    ReadOnlyNode,
    SessionOver,
    SessionShared,
    TransactionLost,
)
from polysaga.faults import Fault
from polysaga.limits import going_on

_PATIENCE = 30.0  # seconds that the end of a session waits for a task that still uses it
_MOMENT = 0.02  # seconds
_GONE = {Fault.DISCONNECTED, Fault.UNREACHABLE}
_CONCURRENT = "isce"  # SQLAlchemy's code: another task is acquiring a connection, or beginning a savepoint


class LentSession(Session):
    """A session that ends with the block it was lent for; any later use raises `SessionOver`."""

    _over: str | None = None

    def end(self, database: str) -> None:
        """Refuse every use from now on."""
        self._over = database

    def refuse_if_over(self) -> None:
        """Raise `SessionOver` after the end."""
        if self._over is not None:
            raise SessionOver(self._over)

    def is_lost(self) -> bool:
        """Return whether the transaction has ended under the session: with a failed flush, or its connection."""
        transaction = self.get_transaction()
        if transaction is None:
            return False
        return not transaction.is_active or any(one.invalidated for one in connections_of(self))

    def _autobegin_t(self, begin: bool = False) -> SessionTransaction:  # noqa: FBT001, FBT002 - SQLAlchemy's
        # Every use of the database comes through here first. Session.close() alone would not do: a closed session
        # can begin anew. A session closed for good could not be closed early and then used on in its block.
        self.refuse_if_over()
        return super()._autobegin_t(begin)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Flush; a cancellation stays one although the block has ended, and nothing is left to roll back."""
        try:
            super().flush(objects)
        except InvalidRequestError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, asyncio.CancelledError):
                    raise cause from None
                cause = cause.__context__
            raise


@event.listens_for(LentSession, "after_begin")
def _note_session(session: LentSession, _: SessionTransaction, connection: Connection) -> None:
    connection.info[SESSION] = weakref.ref(session)  # what it is flushing must not be committed by half


def taken_by(session: Session) -> dict[Any, Any]:
    """Return SQLAlchemy's record of what the transaction of *session* has taken: by connection, and by engine."""
    transaction = session.get_transaction()
    return {} if transaction is None else transaction._connections  # noqa: SLF001 - nothing public tells them


def connections_of(session: Session) -> set[Connection]:
    """Return the connections that the transaction of *session* has taken."""
    return {one for one in taken_by(session) if isinstance(one, Connection)}


@contextlib.contextmanager
def telling_loss(lent: LentSession, database: str) -> Iterator[None]:
    """Raise `TransactionLost` in the place of a `PendingRollbackError` about *lent*, not about another session."""
    try:
        yield
    except PendingRollbackError as error:
        if lent.is_lost():
            raise TransactionLost(database) from error
        raise


def _end_here(session: Session) -> None:
    # All of them: the session may be about to get a savepoint, which waits behind a slow statement.
    for connection in connections_of(session):
        end_here(connection)


class PatientSession(AsyncSession):
    """Gives its connection back even if a task that its user left behind is still acquiring it.

    If one task of an `asyncio.gather` over one session fails, another may still connect: `gather` cancels none.
    """

    async def close(self) -> None:
        """Close the session as soon as no other task uses it; wait for that at most 30 seconds.

        It is closed also if that takes longer, or if this call is cancelled.
        """
        try:
            await super().close()
        except IllegalStateChangeError:
            closing = going_on(self._close_when_unused())
            await asyncio.wait({closing}, timeout=_PATIENCE)
            if closing.done():
                closing.result()

    async def _close_when_unused(self) -> None:
        clock = Clock()
        while True:  # the other task waits for a connection and its locks, as long as the settings let it
            await clock.sleep(_MOMENT)
            await self.run_sync(_end_here)
            with contextlib.suppress(IllegalStateChangeError):
                return await super().close()


@asynccontextmanager
async def sql_session(
    node: SqlNode, *, read_only: bool, snapshot: bool = False, bind: AsyncConnection | None = None
) -> AsyncIterator[AsyncSession]:
    """Lend a session on *node*; commit at the end; raise errors about the node as Polysaga's own.

    With *bind* it is on this connection of *node*, which stays with the caller.
    """
    if not read_only:
        refuse_if_held(node, "opened a writer of its own", "use the session that the step was given")
    engine = bind or ((node.snapshots if snapshot else node.reader) if read_only else node.writer)
    session = PatientSession(engine, sync_session_class=LentSession, expire_on_commit=False)
    lent = cast(LentSession, session.sync_session)
    try:
        try:
            with telling_loss(lent, node.database):
                yield session
                await _commit(session, node, read_only=read_only)
        except BaseException:
            lent.end(node.database)
            # A dead connection has nothing to roll back: the caller gets the error that ended the block.
            with contextlib.suppress(StatementError, PoolTimeout, OSError):
                await close_shielded(session)
            raise
        lent.end(node.database)
        await close_shielded(session)
    except (StatementError, PoolTimeout) as error:
        ours = as_ours(node, error, read_only=read_only)
        if ours is None:
            raise
        raise ours from error


async def close_shielded(session: AsyncSession) -> None:
    """Close *session*, also if the caller is cancelled meanwhile: it must give its connection back."""
    await asyncio.shield(going_on(session.close()))


async def _commit(session: AsyncSession, node: SqlNode, *, read_only: bool) -> None:
    try:
        await session.commit()
    except InvalidRequestError as error:
        if error.code != _CONCURRENT:
            raise
        raise SessionShared(node.database) from error
    except DBAPIError as error:
        if not (read_only and is_gone(node, error)):  # a reader has read all, and commits nothing
            raise


def as_ours(node: SqlNode, error: Exception, *, read_only: bool) -> Exception | None:
    """Return Polysaga's own error if *error* is about the database of *node*, or about the session; else None.

    *node* and *read_only* are those of the session whose block the error leaves; it may be another session's.
    """
    owner, only_reads = _origin_of(error) or (node, read_only)
    if owner.database != node.database:
        return None  # it is of a session around this one, which explains it
    node, read_only = owner, only_reads
    if isinstance(error, StatementError) and isinstance(error.orig, SessionShared | TransactionLost):
        # SQLAlchemy wraps every error on a connection on which another task handles one.
        return type(error.orig)(node.database)
    if isinstance(error, StatementError) and isinstance(error.orig, DatabaseUnavailable):
        return error.orig
    match node.dialect.fault(error):
        case Fault.POOL_EXHAUSTED:
            return pool_exhausted(node, read_only=read_only)
        case Fault.DISCONNECTED | Fault.UNREACHABLE:
            return DatabaseUnavailable(node.database, node.name, "the connection was lost")
        case Fault.READ_ONLY:
            return ReadOnlyNode(node.database, node.name) if read_only else NoPrimary(node.database)
        case _:
            return None


def is_gone(node: SqlNode, error: Exception) -> bool:
    """Return whether *error* says that *node*, or a connection to it, is gone.

    It may be about another server: a session inside the block, or a saga, may raise it.
    """
    if node.dialect.fault(error) not in _GONE:
        return False
    if isinstance(error, DatabaseUnavailable):
        return (error.database, error.node) == (node.database, node.name)
    origin = _origin_of(error)
    return origin is None or origin.node is node


def _origin_of(error: Exception) -> Origin | None:
    """Return where SQLAlchemy's *error* arose; None if unknown."""
    return getattr(error, ORIGIN, None)


def pool_exhausted(node: SqlNode, *, read_only: bool) -> PoolExhausted:
    """Return the error for a caller for whom no connection to *node* became free in time."""
    pool, one = node.settings.pool, node.dialect.single_writer and not read_only
    return exhausted(node.database, pool.size + pool.max_overflow, pool.acquire_timeout, one_writer=one)
