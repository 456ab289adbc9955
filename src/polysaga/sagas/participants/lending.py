"""Lending a session to a step: a real `AsyncSession` on a transaction that is ours.

The step can flush, execute and use savepoints, but not commit, roll back or close. A driver error inside the
transaction, outside a savepoint, dooms it even if the code swallows the error. Otherwise, after a deadlock, InnoDB
would roll back silently, let the code go on and commit only the second half of the step. Statements that commit
implicitly on MySQL and MariaDB are refused before they are sent.

Our last statement and COMMIT go to the driver directly, past the session's greenlet. This is the main reason why a
saga is nearly as fast as plain code (`docs/decisions/0002-statements-on-the-driver.md`).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import PoolProxiedConnection

from polysaga.clock import Clock
from polysaga.databases import SqlNode
from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Sealed
from polysaga.databases.dialects.sql import ANSWERED_AT, COMMITTED, SEALED
from polysaga.databases.handles import PatientSession
from polysaga.errors import StepMisused
from polysaga.sagas.participants.implicit_commits import calls_procedure, ends_transaction
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.texts import said

_LOAN = "polysaga.loan"
_ENDS_ALL = {1213, 1020}  # InnoDB rolls back the whole transaction, savepoints included
_NO_SUCH = 1305  # savepoint, function or procedure


class lend:  # noqa: N801 - reads as a verb where it is used
    """Lend an `AsyncSession` on one transaction; whatever happens, the connection comes back clean."""

    def __init__(self, node: SqlNode) -> None:
        # Closed for good at the end: a task that outlives its step has no session to write with.
        self._session = PatientSession(
            node.writer, sync_session_class=_StepSession, expire_on_commit=False, close_resets_only=False
        )
        lent: Any = self._session.sync_session
        self._loan = lent.loan = _Loan()

    async def __aenter__(self) -> AsyncSession:
        return self._session

    async def __aexit__(self, *failure: object) -> None:
        if not self._loan.lent:
            return  # committed and closed already, without another switch to the greenlet
        self._loan.end()
        # Shielded: a cancelled step must still give its connection back.
        try:
            await asyncio.shield(asyncio.ensure_future(self._session.close()))
        except (DBAPIError, OSError):
            # A dead connection has nothing to roll back, and one that another task still uses cannot be rolled
            # back: neither may keep its place in the pool. The caller must get the error, or the cancellation,
            # that ended the step.
            await self._session.run_sync(lambda _: self._loan.drop())
            if failure[0] is None:
                raise


async def seal_and_commit(session: AsyncSession, node: SqlNode, writes: Sequence[Write]) -> None:
    """Write what is pending, then *writes*, then commit.

    Raises `Fenced` if one of the writes does not change exactly one row.
    """
    lent: Any = session.sync_session
    loan: _Loan = lent.loan
    adapted = loan.settled(node, lent)
    if adapted is None:
        adapted = await session.run_sync(check_whole, node)
    try:
        sealed = await node.dialect.seal(adapted.driver_connection, writes)
    except asyncio.CancelledError:
        # The server may still be executing: the connection must not be reused.
        await session.run_sync(lambda _: loan.drop())
        raise
    if sealed is Sealed.FENCED:
        raise Fenced("a write that ends a step changed no row")
    if sealed is Sealed.COMMITTED:
        node.dialect.forget_transaction(adapted)
        loan.note_commit()
    await session.run_sync(commit)  # a pool that overflowed closes the connection, and that is sent


def check_whole(session: Session, node: SqlNode) -> Any:
    """Write what is pending; return the adapted driver connection, or raise if the transaction is not whole.

    Runs in the session's greenlet.
    """
    session.flush()
    loan: _Loan = session.loan  # type: ignore[attr-defined]
    return loan.verify(node, session)


def commit(session: Session) -> None:
    """Commit and close a lent session; runs in its greenlet."""
    loan: _Loan = session.loan  # type: ignore[attr-defined]
    loan.end(committed=True)
    try:
        Session.commit(session)
    except BaseException:
        # The server may not have ended the transaction: the connection must not be reused with it open.
        loan.drop()
        raise
    finally:
        Session.close(session)


def watch(node: SqlNode) -> None:
    """Make the engine of *node* report what happens on lent connections; harmless when repeated.

    The hooks are the dialect's: a single listener on a connection's own events (`before_cursor_execute`,
    `commit`) would make SQLAlchemy prepare the dispatch of all of them, anew for every connection.
    """
    engine = node.writer.sync_engine
    if event.contains(engine, "handle_error", _doom):
        return
    event.listen(engine, "handle_error", _doom)
    for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execution, partial(_refuse_ending, node.dialect.name))
    if node.dialect.name == "mysql":
        event.listen(engine, "do_execute", _watch_call)
    engine.dialect.do_commit = partial(_commit_unless_lent, engine.dialect.do_commit)  # type: ignore[method-assign]


class _Loan:
    """What happened on the connection while it was lent."""

    def __init__(self) -> None:
        self.lent = True
        self.doom: BaseException | None = None
        self.nested: BaseException | None = None  # the last error inside a savepoint
        self.connection: Connection | None = None
        self._transaction: object | None = None
        self._info: dict[Any, Any] = {}

    def begin(self, connection: Connection) -> None:
        # A task that outlives its step may get its connection after the loan has ended.
        if self.connection is None and self.lent:
            self.connection, self._transaction = connection, connection.get_transaction()
            self._info = connection.info
            self._info[_LOAN] = self

    def end(self, *, committed: bool = False) -> None:
        self.lent = False
        self._info.pop(_LOAN, None)
        if committed:
            self._info[COMMITTED] = True
            self._info[ANSWERED_AT] = Clock.monotonic()

    def note_commit(self) -> None:
        """Let the connection skip the COMMIT of its session: the server has committed already."""
        self._info[SEALED] = True

    def drop(self) -> None:
        """Take the connection out of the pool: the server ends its open transaction."""
        if self.connection is not None and not self.connection.closed and not self.connection.invalidated:
            self.connection.invalidate()

    def settled(self, node: SqlNode, session: Session) -> Any:
        """Return the adapted driver connection if `check_whole` would have nothing to do; else None."""
        connection = self.connection
        if (
            connection is None
            or self.doom is not None
            or not session._is_clean()  # noqa: SLF001 - what `flush` itself asks first
            or session.in_nested_transaction()
            or session.dispatch.before_commit
            or connection.get_transaction() is not self._transaction
        ):
            return None
        adapted: Any = connection.connection.dbapi_connection
        return adapted if node.dialect.begun(adapted.driver_connection) else None

    def verify(self, node: SqlNode, session: Session) -> Any:
        """Return the adapted driver connection; raise unless the transaction is the one that was begun, whole."""
        connection = self.connection or session.connection()
        if self.doom is not None:
            fault = node.dialect.fault(self.doom)
            if fault is not None and fault.transient:
                raise self.doom
            raise StepMisused(
                f"a step went on after an error inside its transaction ({said(self.doom)}); "
                "use begin_nested() for a part that may fail"
            ) from self.doom
        adapted: Any = connection.connection.dbapi_connection
        if connection.get_transaction() is self._transaction:
            if node.dialect.begun(adapted.driver_connection):
                return adapted
            connection.exec_driver_sql("SELECT 1")  # a step without SQL: make the adapter begin
            if node.dialect.begun(adapted.driver_connection):
                return adapted
        raise StepMisused("a step ended its transaction by itself; it must end with the step")


class _StepSession(Session):
    """A session whose transaction belongs to the participant."""

    loan: _Loan

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
        if self.loan.lent:
            raise StepMisused(
                f"a step called {what}() on its session: the transaction ends with the step; "
                "use begin_nested() for a part that may fail"
            )


@event.listens_for(_StepSession, "after_begin")
def _begin(session: _StepSession, transaction: SessionTransaction, connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise StepMisused("a step asked for AUTOCOMMIT: its effect and its ledger row must be one transaction")
    if not session.loan.lent:
        raise StepMisused("a task that outlives its step used the step's session")
    session.loan.begin(connection)


def _doom(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return  # the server commits nothing of it
    loan = connection.info.get(_LOAN)
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


def _commit_unless_lent(do_commit: Callable[[PoolProxiedConnection], None], lent: PoolProxiedConnection) -> None:
    loan = lent.info.get(_LOAN)
    if loan is not None:
        # SQLAlchemy treats a failed commit as the end of the transaction; the server does not.
        loan.drop()
        raise StepMisused("a step called commit() on its connection: the transaction ends with the step")
    if not lent.info.pop(SEALED, False):
        do_commit(lent)


def _refuse_ending(dialect: str, cursor: Any, statement: str, *rest: Any) -> None:
    if ends_transaction(dialect, statement) and _LOAN in rest[-1].root_connection.info:
        raise StepMisused(
            f"a step sent {statement.strip()[:60]!r}: it ends the step's transaction, or commits implicitly as "
            "DDL and programs do on MySQL and MariaDB, or is several statements in one; the transaction ends "
            "with the step: send statements one by one, and use begin_nested() for a part that may fail"
        )


def _watch_call(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Call a procedure between two marks: the savepoint is gone if the transaction ended in between."""
    loan = context.root_connection.info.get(_LOAN) if calls_procedure(statement) else None
    if loan is None:
        return False
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
