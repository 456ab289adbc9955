"""Lending a session or a connection to a step: SQLAlchemy's own, on a transaction that is ours.

The step can flush, execute and use savepoints, but not commit, roll back or close (`watching.py` has the rest of
what it cannot do).

Our last statement and COMMIT go to the driver directly, past SQLAlchemy's greenlet. This is the main reason why a
saga is nearly as fast as plain code (`docs/decisions/0002-statements-on-the-driver.md`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, AsyncTransaction
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import FlushError
from sqlalchemy.util import greenlet_spawn

from polysaga.databases import SqlNode
from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Sealed
from polysaga.databases.lent_sessions import PatientSession
from polysaga.errors import StepMisused
from polysaga.limits import going_on
from polysaga.sagas.participants.loans import AUTOCOMMIT, LEFT_BEHIND, Loan
from polysaga.sagas.protocol.interrupts import Fenced

LentT = TypeVar("LentT", Session, Connection)
_FLUSHES = 100  # of one commit, as SQLAlchemy's
_KEYS = 2  # under which a session keeps its connection: itself, and its engine


class StepTransaction(Protocol):
    """The transaction of one step. Whatever happens in its block, the connection comes back clean."""

    async def __aenter__(self) -> Any:
        """Lend what the user's code works with."""

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None: ...

    async def connection(self) -> AsyncConnection:
        """Return the connection of the transaction."""

    async def check_whole(self) -> None:
        """Write what is pending; raise if the transaction is not the one that was begun, whole."""

    async def seal_and_commit(self, writes: Sequence[Write]) -> None:
        """Write what is pending, then *writes*, then commit.

        Raises `Fenced` if one of the writes does not change exactly one row.
        """

    async def commit(self) -> None:
        """Commit and give the connection back."""


def lend(node: SqlNode, *, bare: bool = False) -> StepTransaction:
    """Lend one transaction on *node*: an `AsyncSession`, or *bare* an `AsyncConnection`."""
    return _ConnectionWork(node) if bare else _SessionWork(node)


class _Work(Generic[LentT]):
    """What both kinds have in common. `_run` calls a function in the greenlet of what was lent."""

    _kind: ClassVar[Any]  # whose commit and close are SQLAlchemy's own, not those that refuse
    _run: Callable[[Callable[[LentT], Any]], Awaitable[Any]]

    def __init__(self, node: SqlNode) -> None:
        self._node, self._loan = node, Loan(node.dialect)

    async def seal_and_commit(self, writes: Sequence[Write]) -> None:
        dialect = self._node.dialect
        adapted = self._settled()
        if adapted is None:
            adapted = await self._run(self._whole)
        self._loan.shut_unused(adapted)
        try:
            # What SQLAlchemy's commit sends before COMMIT is of the transaction.
            seal = dialect.write if self._loan.needs_commit else dialect.seal
            sealed = await seal(adapted.driver_connection, writes)
        except asyncio.CancelledError:
            # The server may still be executing: the connection must not be reused.
            await self._run(self._drop)
            raise
        if sealed is Sealed.FENCED:
            raise Fenced(
                "a write that ends a step changed no row: the claim is another owner's, or the clock of this "
                "process is a day behind that of the database"
            )
        if sealed is Sealed.COMMITTED:
            dialect.forget_transaction(adapted)
            self._loan.is_sealed = True
        await self._run(self._commit)  # a pool that overflowed closes the connection, and that is sent

    async def check_whole(self) -> None:
        await self._run(self._whole)

    async def commit(self) -> None:
        await self._run(self._shut_and_commit)

    def _shut_and_commit(self, lent: LentT) -> None:
        if (adapted := self._loan.adapted()) is not None:
            self._loan.shut_unused(adapted)
        self._commit(lent)

    def _commit(self, lent: LentT) -> None:
        self._loan.end(committed=True)
        committed = self._loan.is_sealed
        try:
            if committed:
                self._end_sealed(lent)
            else:
                self._kind.commit(lent)
                committed = True
        except InvalidRequestError:
            self._loan.drop()
            # A task that was left behind may have broken the session; the effect is committed all the same.
            if not committed:
                raise
        except BaseException:
            # The server may not have ended the transaction: the connection must not be reused with it open.
            self._loan.drop()
            raise
        finally:
            self._loan.tell_end(committed=committed)
            self._close_for_good(lent)

    def _end_sealed(self, _: LentT) -> None:
        """Do what a commit does besides sending COMMIT, and closing does not."""
        self._loan.deactivate()

    def _close_for_good(self, lent: LentT) -> None:
        try:
            self._kind.close(lent)
        except InvalidRequestError:  # a task that was left behind is inside of it
            self._loan.drop()
            if not self._loan.is_sealed:
                raise

    async def _give_back(self, failure: BaseException | None) -> None:
        self._loan.end()
        fault = None if failure is None else self._node.dialect.fault(failure)
        if fault is not None and fault.is_of_the_connection:
            await self._run(self._drop)
        # Shielded: a cancelled step must still give its connection back.
        try:
            await asyncio.shield(going_on(self._close_alone()))
        except (DBAPIError, OSError, RuntimeError):
            # A dead connection has nothing to roll back, and one that another task still reads from cannot be
            # rolled back, which asyncio's streams say by a RuntimeError: neither may keep its place in the pool.
            # The caller must get the error, or the cancellation, that ended the step.
            await self._run(self._drop)
            if failure is None:
                raise
        finally:
            self._loan.tell_end(committed=False)

    async def _close_alone(self) -> None:
        self._loan.shut()
        await self._close()

    async def _close(self) -> None:
        """Roll back, and close what was lent."""
        raise NotImplementedError

    def _settled(self) -> Any:
        """Return the adapted driver connection if `_whole` would have nothing to do; else None."""
        raise NotImplementedError

    def _whole(self, lent: LentT) -> Any:
        """Write what is pending; return the adapted driver connection; raise if the transaction is not whole."""
        raise NotImplementedError

    def _drop(self, _: LentT) -> None:
        self._loan.drop()


class _SessionWork(_Work[Session]):
    _kind = Session

    def __init__(self, node: SqlNode) -> None:
        super().__init__(node)
        # Closed for good at the end: a task that outlives its step has no session to write with.
        self._session = PatientSession(
            node.writer, sync_session_class=_StepSession, expire_on_commit=False, close_resets_only=False
        )
        self._run = self._session.run_sync
        lent: Any = self._session.sync_session
        lent.loan = self._loan

    async def __aenter__(self) -> AsyncSession:
        return self._session

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._loan.lent:  # else it was committed and closed, without another switch to the greenlet
            await self._give_back(error)

    async def _close(self) -> None:
        await self._session.close()

    async def connection(self) -> AsyncConnection:
        return await self._session.connection()

    def _settled(self) -> Any:
        session = self._session.sync_session
        if (
            session._flushing  # noqa: SLF001
            or not session._is_clean()  # noqa: SLF001 - what `flush` itself asks first
            or session.in_nested_transaction()
            or session.dispatch.before_commit
        ):
            return None
        return self._loan.settled(self._node)

    def _end_sealed(self, lent: Session) -> None:
        last: Any = lent._transaction  # noqa: SLF001
        ended = () if last is None else last._iterate_self_and_parents()  # noqa: SLF001
        if self._needs_no_commit(lent, ended):
            super()._end_sealed(lent)
            # Before the session's close expunges the objects, as after a commit: listeners see them, or raise.
            for one in ended:
                one.close()
            return
        self._loan.skip_commit()
        # What a task that was left behind has added meanwhile is of no transaction.
        vars(lent)["_is_clean"] = vars(lent)["flush"] = lambda *_: True
        Session.commit(lent)

    def _needs_no_commit(self, lent: Session, ended: Sequence[Any]) -> bool:
        if lent.dispatch.after_commit or not ended:
            return False
        # Another connection is to be committed, and a deleted object to be taken out of the session.
        return not any(len(one._connections) > _KEYS or one._deleted for one in ended)  # noqa: SLF001

    def _whole(self, lent: Session) -> Any:
        _write_all(lent)
        return self._loan.verify(self._node, self._loan.connection or lent.connection())


class _ConnectionWork(_Work[Connection]):
    """For steps that need no session: no unit of work, no identity map, and none of the time that they take."""

    _kind = Connection

    async def __aenter__(self) -> AsyncConnection:
        lent = await greenlet_spawn(self._node.writer.sync_engine.connect)
        self._connection = StepConnection(self._node.writer, lent)
        self._connection.loan = self._loan
        self._run = self._connection.run_sync
        self._loan.begin(lent)  # the transaction begins with the first statement
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._loan.lent:
            await self._give_back(error)

    async def _close(self) -> None:
        await AsyncConnection.close(self._connection)

    async def connection(self) -> AsyncConnection:
        return self._connection

    def _settled(self) -> Any:
        connection = self._connection.sync_connection
        if connection is None or connection.invalidated or connection.in_nested_transaction():
            return None
        return self._loan.settled(self._node)

    def _whole(self, lent: Connection) -> Any:
        return self._loan.verify(self._node, lent)


class _StepSession(Session):
    """A session whose transaction belongs to the participant."""

    loan: Loan

    def get_bind(self, *asked: Any, **options: Any) -> Engine | Connection:
        # Asked before SQLAlchemy takes a connection: a session that is taking one cannot be closed.
        self.loan.refuse_others()
        return super().get_bind(*asked, **options)

    def commit(self) -> None:
        self._refuse("commit")
        super().commit()

    def rollback(self) -> None:
        self._refuse("rollback")
        super().rollback()

    def close(self) -> None:
        self._refuse("close")
        super().close()

    def _refuse(self, what: str) -> None:
        self.loan.refuse(f"{what}() on its session")


class _AfterwardsOnly:
    """The listeners of a session, without those to its commit: they have been called."""

    def __init__(self, dispatch: Any) -> None:
        self._dispatch = dispatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatch, name)

    def before_commit(self, session: Session) -> None:
        """Do nothing."""


def _write_all(session: Session) -> None:
    """Do what SQLAlchemy does before COMMIT: call the listeners, which may write as well, and flush."""
    if session._flushing:  # noqa: SLF001 - SQLAlchemy would raise, or commit half of it
        raise StepMisused(LEFT_BEHIND)
    if session.dispatch.before_commit:
        listeners = session.dispatch
        vars(session)["dispatch"] = _AfterwardsOnly(listeners)
        listeners.before_commit(session)
    for _ in range(_FLUSHES):
        if session._is_clean():  # noqa: SLF001 - as SQLAlchemy's own commit
            return
        session.flush()
    raise FlushError(f"over {_FLUSHES} flushes: does a listener to `after_flush` create objects each time?")


class StepConnection(AsyncConnection):
    """A connection whose transaction belongs to the participant."""

    loan: Loan

    def begin(self) -> AsyncTransaction:
        self.loan.refuse("begin() on its connection, which has begun")
        return super().begin()

    async def commit(self) -> None:
        self.loan.refuse("commit() on its connection")
        await super().commit()

    async def rollback(self) -> None:
        self.loan.refuse("rollback() on its connection")
        await super().rollback()

    async def close(self) -> None:
        self.loan.refuse("close() on its connection")
        await super().close()


@event.listens_for(_StepSession, "after_begin")
def _begin(session: _StepSession, transaction: SessionTransaction, connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise StepMisused(AUTOCOMMIT)
    if not session.loan.lent:
        raise StepMisused("a task that outlives its step used the step's session")
    session.loan.begin(connection)
