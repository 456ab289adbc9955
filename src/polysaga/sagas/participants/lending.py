"""Lending a session or a connection to a step: SQLAlchemy's own, on a transaction that is ours.

The step can flush, execute and use savepoints, but not commit, roll back or close. A driver error inside the
transaction, outside a savepoint, dooms it even if the code swallows the error. Otherwise, after a deadlock, InnoDB
would roll back silently, let the code go on and commit only the second half of the step. Statements that commit
implicitly on MySQL and MariaDB are refused before they are sent.

Our last statement and COMMIT go to the driver directly, past SQLAlchemy's greenlet. This is the main reason why a
saga is nearly as fast as plain code (`docs/decisions/0002-statements-on-the-driver.md`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, AsyncTransaction
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import FlushError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from polysaga.clock import Clock
from polysaga.databases import SqlNode
from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Sealed
from polysaga.databases.dialects.sql import ANSWERED_AT, COMMITTED, ENDING, LOAN, SEALED, SqlDialect
from polysaga.databases.endings import held
from polysaga.databases.handles import PatientSession
from polysaga.errors import StepMisused
from polysaga.sagas.participants.implicit_commits import calls_procedure, ends_transaction
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.texts import said

LentT = TypeVar("LentT", Session, Connection)
_FLUSHES = 100  # of one commit, as SQLAlchemy's
_ENDS_ALL = {1213, 1020}  # InnoDB rolls back the whole transaction, savepoints included
_AUTOCOMMIT = "a step asked for AUTOCOMMIT: its effect and its ledger row must be one transaction"
_LEFT_BEHIND = "a task that a step left behind uses the step's connection: await it before the step returns"
# Not `event.contains`: it takes a new engine for one that is gone if it got the same place in memory.
_watched: WeakSet[Engine] = WeakSet()
_NO_SUCH = 1305  # savepoint, function or procedure


class StepTransaction(Protocol):
    """The transaction of one step. Whatever happens in its block, the connection comes back clean."""

    async def __aenter__(self) -> Any:
        """Lend what the user's code works with."""

    async def __aexit__(self, *failure: object) -> None: ...

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
        self._node, self._loan = node, _Loan(node.dialect)

    async def seal_and_commit(self, writes: Sequence[Write]) -> None:
        dialect = self._node.dialect
        adapted = self._settled()
        if adapted is None:
            adapted = await self._run(self._whole)
        self._loan.shut_unused(adapted)
        try:
            sealed = await dialect.seal(adapted.driver_connection, writes)
        except asyncio.CancelledError:
            # The server may still be executing: the connection must not be reused.
            await self._run(self._drop)
            raise
        if sealed is Sealed.FENCED:
            raise Fenced("a write that ends a step changed no row")
        if sealed is Sealed.COMMITTED:
            dialect.forget_transaction(adapted)
            self._loan.note_commit()
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
        try:
            self._kind.commit(lent)
        except InvalidRequestError:
            self._loan.drop()
            # A task that was left behind may have broken the session; the effect is committed all the same.
            if not self._loan.is_sealed:
                raise
        except BaseException:
            # The server may not have ended the transaction: the connection must not be reused with it open.
            self._loan.drop()
            raise
        finally:
            self._close_for_good(lent)

    def _close_for_good(self, lent: LentT) -> None:
        try:
            self._kind.close(lent)
        except InvalidRequestError:  # a task that was left behind is inside of it
            self._loan.drop()
            if not self._loan.is_sealed:
                raise

    async def _give_back(self, *, failed: bool) -> None:
        self._loan.end()
        # Shielded: a cancelled step must still give its connection back.
        try:
            await asyncio.shield(asyncio.ensure_future(self._close_alone()))
        except (DBAPIError, OSError, RuntimeError):
            # A dead connection has nothing to roll back, and one that another task still reads from cannot be
            # rolled back, which asyncio's streams say by a RuntimeError: neither may keep its place in the pool.
            # The caller must get the error, or the cancellation, that ended the step.
            await self._run(self._drop)
            if not failed:
                raise

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

    async def __aexit__(self, *failure: object) -> None:
        if self._loan.lent:  # else it was committed and closed, without another switch to the greenlet
            await self._give_back(failed=failure[0] is not None)

    async def _close(self) -> None:
        await self._session.close()

    async def connection(self) -> AsyncConnection:
        return await self._session.connection()

    def _settled(self) -> Any:
        session = self._session.sync_session
        if (
            not session._is_clean()  # noqa: SLF001 - what `flush` itself asks first
            or session.in_nested_transaction()
            or session.dispatch.before_commit
        ):
            return None
        return self._loan.settled(self._node)

    def _whole(self, lent: Session) -> Any:
        _write_all(lent)
        return self._loan.verify(self._node, self._loan.connection or lent.connection())


class _ConnectionWork(_Work[Connection]):
    """For steps that need no session: no unit of work, no identity map, and none of the time that they take."""

    _kind = Connection

    async def __aenter__(self) -> AsyncConnection:
        lent = await greenlet_spawn(self._node.writer.sync_engine.connect)
        self._connection = _StepConnection(self._node.writer, lent)
        self._connection.loan = self._loan
        self._run = self._connection.run_sync
        self._loan.begin(lent)  # the transaction begins with the first statement
        return self._connection

    async def __aexit__(self, *failure: object) -> None:
        if self._loan.lent:
            await self._give_back(failed=failure[0] is not None)

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


def watch(node: SqlNode) -> None:
    """Make the engine of *node* report what happens on lent connections; harmless when repeated.

    The hooks are the dialect's: a single listener on a connection's own events (`before_cursor_execute`,
    `commit`) would make SQLAlchemy prepare the dispatch of all of them, anew for every connection.
    """
    engine = node.writer.sync_engine
    if engine in _watched:
        return
    _watched.add(engine)
    event.listen(engine, "handle_error", _doom)
    for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execution, partial(_refuse_ending, node.dialect.name))
    if node.dialect.name == "mysql":
        event.listen(engine, "do_execute", _watch_call)
    dialect: Any = engine.dialect
    dialect.do_begin = partial(_note_begin, dialect.do_begin)
    dialect.do_commit = partial(_commit_unless_lent, dialect.do_commit)
    dialect.set_connection_execution_options = partial(
        _refuse_autocommit, dialect.set_connection_execution_options
    )


class _Loan:
    """What happened on the connection while it was lent."""

    def __init__(self, dialect: SqlDialect) -> None:
        self.lent = True
        self.doom: BaseException | None = None
        self.nested: BaseException | None = None  # the last error inside a savepoint
        self.connection: Connection | None = None
        self.begins = 0  # seen while it was lent
        self.is_sealed = False  # the server has committed
        self._transaction: object | None = None
        self._ending: asyncio.Task[Any] | None = None
        self._dialect = dialect
        self._info: dict[Any, Any] = {}

    def adapted(self) -> Any:
        """Return the adapted driver connection, or None if there is none, or no longer."""
        connection = self.connection
        if connection is None or connection.closed or connection.invalidated:
            return None
        return connection.connection.dbapi_connection

    def begin(self, connection: Connection) -> None:
        # A task that outlives its step may get its connection after the loan has ended.
        if self.connection is None and self.lent:
            self.connection, self._transaction = connection, connection.get_transaction()
            self._info = connection.info
            self._info[LOAN] = self
            # After `invalidate` it would take another connection of the pool, with transactions that no loan sees.
            lent: Any = connection
            lent._Connection__can_reconnect = False  # noqa: SLF001 - SQLAlchemy sets it as well

    def shut(self) -> None:
        """Refuse every further statement of another task."""
        self._ending = asyncio.current_task()
        if self._is_noted():
            self._info[ENDING] = self._ending

    def shut_unused(self, adapted: Any) -> None:
        """Refuse every further statement of another task; raise if one is inside a statement."""
        self.shut()
        if held(self._dialect.statement_lock(adapted)):
            raise StepMisused(_LEFT_BEHIND)

    def refuse_others(self) -> None:
        """Raise in a task that was left behind: the step is being ended by another."""
        if self._ending is not None and self._ending is not asyncio.current_task():
            raise StepMisused(_LEFT_BEHIND)

    def end(self, *, committed: bool = False) -> None:
        self.lent = False
        if committed:
            self._info[COMMITTED] = True
            self._info[ANSWERED_AT] = Clock.monotonic()

    def refuse(self, what: str) -> None:
        """Raise while the connection is lent: a step called *what*."""
        if self.lent:
            raise StepMisused(
                f"a step called {what}: the transaction ends with the step; "
                "use begin_nested() for a part that may fail"
            )

    def note_commit(self) -> None:
        """Let the connection skip the COMMIT of its session: the server has committed already."""
        self._info[SEALED] = True
        self.is_sealed = True

    def drop(self) -> None:
        """Take the connection out of the pool: the server ends its open transaction."""
        if self.connection is not None and not self.connection.closed and not self.connection.invalidated:
            self.connection.invalidate()

    def settled(self, node: SqlNode) -> Any:
        """Return the adapted driver connection if the transaction is whole; else None."""
        connection = self.connection
        if connection is None or self.doom is not None or not self._is_ours(connection):
            return None
        adapted: Any = connection.connection.dbapi_connection
        return adapted if node.dialect.begun(adapted.driver_connection) else None

    def verify(self, node: SqlNode, connection: Connection) -> Any:
        """Return the adapted driver connection; raise unless the transaction is the one that was begun, whole."""
        if self.doom is not None:
            fault = node.dialect.fault(self.doom)
            if fault is not None and fault.transient:
                raise self.doom
            raise StepMisused(
                f"a step went on after an error inside its transaction ({said(self.doom)}); "
                "use begin_nested() for a part that may fail"
            ) from self.doom
        adapted: Any = connection.connection.dbapi_connection
        if self._transaction is None and self.begins == 0:
            connection.exec_driver_sql("SELECT 1")  # a step without SQL, on a connection that has not begun
        if self._is_ours(connection):
            if node.dialect.begun(adapted.driver_connection):
                return adapted
            connection.exec_driver_sql("SELECT 1")  # a step without SQL: make the adapter begin
            if node.dialect.begun(adapted.driver_connection):
                return adapted
        raise StepMisused("a step ended its transaction by itself; it must end with the step")

    def _is_noted(self) -> bool:
        """Return whether the connection is still this loan's: one that left the pool has a next user."""
        return self._info.get(LOAN) is self

    def _is_ours(self, connection: Connection) -> bool:
        """Return whether the transaction is the only one of this loan."""
        found = connection.get_transaction()
        if self._transaction is not None:  # it had begun before
            return found is self._transaction
        return found is not None and found.is_active and self.begins == 1


class _StepSession(Session):
    """A session whose transaction belongs to the participant."""

    loan: _Loan

    def get_bind(self, *asked: Any, **options: Any) -> Engine | Connection:
        # Asked before SQLAlchemy takes a connection: a session that is taking one cannot be closed.
        self.loan.refuse_others()
        return super().get_bind(*asked, **options)

    def _is_clean(self) -> bool:
        # What a task that was left behind adds after COMMIT is of no transaction.
        return self.loan.is_sealed or super()._is_clean()

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        if not self.loan.is_sealed:
            super().flush(objects)

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
    if session.dispatch.before_commit:
        listeners = session.dispatch
        vars(session)["dispatch"] = _AfterwardsOnly(listeners)
        listeners.before_commit(session)
    for _ in range(_FLUSHES):
        if session._is_clean():  # noqa: SLF001 - as SQLAlchemy's own commit
            return
        session.flush()
    raise FlushError(f"over {_FLUSHES} flushes: does a listener to `after_flush` create objects each time?")


class _StepConnection(AsyncConnection):
    """A connection whose transaction belongs to the participant."""

    loan: _Loan

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
        raise StepMisused(_AUTOCOMMIT)
    if not session.loan.lent:
        raise StepMisused("a task that outlives its step used the step's session")
    session.loan.begin(connection)


def _doom(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return  # the server commits nothing of it
    loan = connection.info.get(LOAN)
    if loan is None:
        return
    code, *said = context.original_exception.args or (None,)
    error = context.sqlalchemy_exception or context.original_exception
    if code == _NO_SUCH and any(str(part).startswith("SAVEPOINT ") for part in said):
        # The transaction ended unnoticed, as at a lock timeout with innodb_rollback_on_timeout: the error inside
        # the savepoint is the cause.
        loan.doom = loan.doom or loan.nested or error
    elif not connection.in_nested_transaction() or code in _ENDS_ALL:
        loan.doom = error
    else:
        loan.nested = error


def _note_begin(do_begin: Callable[[PoolProxiedConnection], None], lent: PoolProxiedConnection) -> None:
    loan = lent.info.get(LOAN)
    if loan is not None:
        loan.begins += 1
    do_begin(lent)


def _refuse_autocommit(
    set_options: Callable[[Connection, Mapping[str, Any]], None],
    connection: Connection,
    options: Mapping[str, Any],
) -> None:
    if options.get("isolation_level") == "AUTOCOMMIT" and LOAN in connection.info:
        raise StepMisused(_AUTOCOMMIT)
    set_options(connection, options)


def _commit_unless_lent(do_commit: Callable[[PoolProxiedConnection], None], lent: PoolProxiedConnection) -> None:
    loan = lent.info.get(LOAN)
    if loan is not None and loan.lent:
        # SQLAlchemy treats a failed commit as the end of the transaction; the server does not.
        loan.drop()
        raise StepMisused("a step called commit() on its connection: the transaction ends with the step")
    if not lent.info.pop(SEALED, False):
        do_commit(lent)


def _refuse_ending(dialect: str, cursor: Any, statement: str, *rest: Any) -> None:
    if ends_transaction(dialect, statement) and LOAN in rest[-1].root_connection.info:
        raise StepMisused(
            f"a step sent {statement.strip()[:60]!r}: it ends the step's transaction, or commits implicitly as "
            "DDL and programs do on MySQL and MariaDB, or is several statements in one; the transaction ends "
            "with the step: send statements one by one, and use begin_nested() for a part that may fail"
        )


def _watch_call(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Call a procedure between two marks: the savepoint is gone if the transaction ended in between."""
    loan = context.root_connection.info.get(LOAN) if calls_procedure(statement) else None
    if loan is None:
        return False
    if cursor.server_side:
        raise StepMisused(f"a step streamed {statement.strip()[:60]!r}: execute a procedure, do not stream it")
    marks = context.root_connection.connection.cursor()
    marks.execute("SAVEPOINT polysaga_call")
    cursor.execute(statement, parameters)
    try:
        marks.execute("RELEASE SAVEPOINT polysaga_call")
    except context.dialect.loaded_dbapi.Error as error:
        loan.drop()
        raise StepMisused(
            f"a step sent {statement.strip()[:60]!r}, and the procedure ended the step's transaction: what the "
            "step had written before is committed; take COMMIT, ROLLBACK and DDL out of the procedure"
        ) from error
    finally:
        marks.close()
    return True
