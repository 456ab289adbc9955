"""The end of a transaction while another task is inside a statement of it.

SQLAlchemy lets one task at a time use a session or a connection, and checks little of it. A transaction that is
committed or rolled back under a statement breaks in as many ways as there are drivers: asyncpg leaves it open on a
connection of the pool, asyncmy waits for an answer that another task has read, and psycopg executes what it is
sent next in the transaction of the next user.

So a transaction whose statement has not ended cannot be committed; when it is rolled back, the connection is cut,
and leaves the pool. From the moment that a task ends a transaction until the connection is back in the pool, other
tasks can send no statement. Much is sent after COMMIT: the pool's own ROLLBACK, and what resets the isolation.

A transaction may also end before its block: the code swallows the error at which the server has rolled it back.
PostgreSQL then answers to COMMIT that it has rolled back, which drivers do not look at. MySQL and MariaDB begin
another transaction unasked, and would commit what came later. SQLite would commit each later statement by itself.
Here such a block commits nothing and raises `TransactionLost`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only

from polysaga.databases.dialects.sql import ENDING, LOAN, LOST, SEALED, SESSION, STREAMS, SqlDialect
from polysaga.errors import SessionShared, TransactionLost

_LEAVES = 5.0  # seconds that a task gets to leave its statement after the connection was cut
_AGAIN = 0.05  # seconds after which it is cut again
_ENDS_OF_SAVEPOINTS = ("ROLLBACK TO", "RELEASE")
# In a connection's info until it is back in the pool.
_OF_ONE_USE = frozenset((ENDING, LOAN, LOST, SEALED, SESSION, STREAMS))

End = Callable[[PoolProxiedConnection], None]
_Pooled: TypeAlias = PoolProxiedConnection | ConnectionPoolEntry
_guards: WeakKeyDictionary[Any, "_Guard"] = WeakKeyDictionary()  # by SQLAlchemy's dialect, one for each engine


def held(lock: asyncio.Lock) -> bool:
    """Return whether a task holds *lock* or is the next to hold it: on its way to the next it is not locked."""
    return lock.locked() or bool(lock._waiters)  # noqa: SLF001


def end_alone(engine: Engine, dialect: SqlDialect, database: str, *, read_only: bool) -> None:
    """Let transactions on *engine* end as the module says."""
    sqlalchemys: Any = engine.dialect
    guard = _guards[sqlalchemys] = _Guard(dialect, database, sqlalchemys, read_only=read_only)
    sqlalchemys.do_begin = partial(guard.begin, sqlalchemys.do_begin)
    sqlalchemys.do_commit = partial(guard.commit, sqlalchemys.do_commit)
    sqlalchemys.do_rollback = partial(guard.roll_back, sqlalchemys.do_rollback)
    for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execution, guard.refuse_others)
    event.listen(engine, "handle_error", guard.note_loss)
    if dialect.single_writer:
        event.listen(engine, "begin", guard.refuse_to_begin)  # before BEGIN is sent
    if not dialect.rolls_back_on_return:
        event.listen(engine, "reset", guard.reset)  # before the dialect's own
    event.listen(engine, "checkin", guard.take_back)


def end_here(connection: Connection) -> None:
    """Let this task end the transaction of *connection*; break off the statement that another task is inside of.

    To be called in a greenlet of SQLAlchemy's.
    """
    if not connection.closed and not connection.invalidated:
        connection.info[ENDING] = asyncio.current_task()
        _guards[connection.dialect].break_off_if_used(connection.connection, connection.info)


class _Guard:
    """Of one engine. The record of a pooled connection says which task ends its transaction."""

    def __init__(self, dialect: SqlDialect, database: str, sqlalchemys: Any, *, read_only: bool) -> None:
        self._dialect, self._database, self._read_only = dialect, database, read_only
        self._do_rollback: End = sqlalchemys.do_rollback
        self._errors: type[Exception] = sqlalchemys.loaded_dbapi.Error

    def begin(self, do_begin: End, lent: PoolProxiedConnection) -> None:
        info = _info(lent)
        if info is not None and ENDING in info:
            if _is_another(info):
                raise SessionShared(self._database)
            del info[ENDING]  # the task that has ended a transaction goes on with the connection
            info.pop(STREAMS, None)
        if info is not None:
            self._refuse_beside_flush(info)
            info.pop(LOST, None)
        do_begin(lent)

    def commit(self, do_commit: End, lent: PoolProxiedConnection) -> None:
        # SQLAlchemy takes a commit that fails for the end of the transaction; the server does not.
        info = _info(lent)
        if not self._prepare_end(lent, info):
            raise SessionShared(self._database)
        try:
            self._refuse_half(lent, info)
            self._commit(do_commit, lent)
        except BaseException:
            if info is not None:
                info.pop(ENDING, None)  # a session is closed by another task than the one that committed
            raise

    def _commit(self, do_commit: End, lent: PoolProxiedConnection) -> None:
        try:
            do_commit(lent)
        except self._errors as error:
            if not self._dialect.refuses_commit(error):
                raise
            if not self._read_only:  # else there was nothing to lose
                raise TransactionLost(self._database) from error

    def roll_back(self, do_rollback: End, lent: PoolProxiedConnection) -> None:
        # SQLAlchemy rolls back after a refusal, too: the task that was refused must not touch the driver.
        if self._prepare_end(lent, _info(lent)):
            do_rollback(lent)

    def reset(self, connection: Any, record: ConnectionPoolEntry | None, _: Any) -> None:
        if record is not None:  # None: the caller took the connection out of the pool
            self.break_off_if_used(record, record.info)

    def take_back(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Look once more; then nothing runs between this and the return to the pool.

        If it raises, `pools.CountedPool` takes the connection out of the pool.
        """
        try:
            if connection is not None and not self.break_off_if_used(record, record.info):
                self._end_streams(record.info)
                if self._dialect.in_transaction(connection.driver_connection):
                    # The driver was used beside SQLAlchemy, or a rollback went astray: no other user must get it.
                    self._dialect.cut(connection.driver_connection)
                    record.invalidate()
        finally:
            info = record.info
            for mark in _OF_ONE_USE & info.keys():
                del info[mark]

    def refuse_to_begin(self, connection: Connection) -> None:
        info = _info(connection)
        if _is_another(info):
            raise SessionShared(self._database)
        if info is not None:
            self._refuse_beside_flush(info)

    def _refuse_beside_flush(self, info: dict[Any, Any]) -> None:
        """Raise while the flush goes on that a COMMIT was refused for: a new transaction would get the rest."""
        if isinstance(info.get(LOST), SessionShared) and _flushes(info):
            raise SessionShared(self._database)

    def refuse_others(self, cursor: Any, statement: str, *rest: Any) -> None:
        # Raises if the connection was given back, under a statement of many pages.
        info = _info(rest[-1].root_connection)
        if _is_another(info):
            raise SessionShared(self._database)
        if info is None or LOST not in info:
            return
        if isinstance(info[LOST], SessionShared):  # another task goes on with its flush
            raise SessionShared(self._database)
        if self._dialect.single_writer and not statement.startswith(_ENDS_OF_SAVEPOINTS):
            raise TransactionLost(self._database) from info[LOST]  # SQLite would commit it by itself

    def note_loss(self, context: ExceptionContext) -> None:
        """Keep the error at which a transaction was rolled back; raise it if a savepoint is missed for it."""
        connection = context.connection
        if connection is None or connection.closed or connection.invalidated or self._commits_nothing(connection):
            return
        info, error = _info(connection), context.original_exception
        driver = _driver(connection.connection)
        if info is None or driver is None:
            return
        if LOST in info:
            if self._dialect.misses_savepoint(error, driver):
                raise info[LOST]
            if self._dialect.follows_loss(error):
                raise TransactionLost(self._database) from info[LOST]
        elif self._dialect.lost_at(error, driver):
            info[LOST] = context.sqlalchemy_exception or error

    def _commits_nothing(self, connection: Connection) -> bool:
        # Without a transaction each statement stands for itself.
        return self._read_only or connection._is_autocommit_isolation()  # noqa: SLF001

    def _refuse_half(self, lent: PoolProxiedConnection, info: dict[Any, Any] | None) -> None:
        """Raise if COMMIT would commit a part of the transaction, or nothing; roll back what is left of it."""
        if self._read_only or info is None:
            return
        flushes, lost = _flushes(info), info.get(LOST)
        if lost is None and self._dialect.check_commit(_driver(lent)) and not flushes:
            return
        self._do_rollback(lent)
        if not flushes:
            raise TransactionLost(self._database) from lost
        # Until its flush has ended, the other task is refused every statement, and nothing else begins.
        info[LOST] = SessionShared(self._database)
        raise info[LOST]

    def _prepare_end(self, lent: PoolProxiedConnection, info: dict[Any, Any] | None) -> bool:
        """Close the transaction's streams; return False if another task ends it or was inside a statement."""
        record = getattr(lent, "_connection_record", None)
        # As long as another task that has given the connection up closes it, the two differ.
        given_up = record is not None and record.dbapi_connection is not lent.dbapi_connection
        if _is_another(info) or given_up or self.break_off_if_used(lent, info):
            return False
        self._end_streams(info)
        return True

    def _end_streams(self, info: dict[Any, Any] | None) -> None:
        if self._dialect.keeps_cursors and info is not None and STREAMS in info:
            await_only(info.pop(STREAMS).close())

    def break_off_if_used(self, lent: _Pooled, info: dict[Any, Any] | None) -> bool:
        """Keep others from sending statements, and break off one that has been sent; return whether one had."""
        if info is not None and _ending(info) is None:
            info[ENDING] = asyncio.current_task()
        adapted: Any = lent.dbapi_connection
        if adapted is None:
            return False  # another task has given it up, and closes it
        lock = self._dialect.statement_lock(adapted)
        if not held(lock):
            return False
        cut = partial(self._dialect.cut, adapted.driver_connection)
        cut()
        # A driver that closes a connection under a task may break the next one that gets the same descriptor.
        await_only(_left(lock, cut))
        if lent.dbapi_connection is adapted:  # else SQLAlchemy has heard of it from the other task
            lent.invalidate()
        return True


def _driver(lent: PoolProxiedConnection) -> Any:
    """Return the driver's own connection; None if another task has given it up."""
    return getattr(lent.dbapi_connection, "driver_connection", None)


def _info(connection: Connection | _Pooled) -> dict[Any, Any] | None:
    try:
        return connection.info
    except NotImplementedError:
        return None  # SQLAlchemy looks at the server, before the pool has the connection


def _flushes(info: dict[Any, Any]) -> bool:
    """Return whether a session is flushing on the connection; SQLAlchemy asks only at the session's own commit."""
    session = info[SESSION]() if SESSION in info else None
    return session is not None and session._flushing  # noqa: SLF001


def _is_another(info: dict[Any, Any] | None) -> bool:
    """Return whether another task is ending the transaction."""
    ending = None if info is None else _ending(info)
    return ending is not None and ending is not asyncio.current_task()


def _ending(info: dict[Any, Any]) -> "asyncio.Task[Any] | None":
    """Return the task that ends the transaction; None if no task does, or it has left the connection to others."""
    task: asyncio.Task[Any] | None = info.get(ENDING)
    return None if task is None or task.done() else task


async def _left(lock: asyncio.Lock, cut: Callable[[], None]) -> None:
    """Return when the tasks that hold *lock* have left, also if this one is cancelled, or after five seconds."""
    waiting = asyncio.ensure_future(_taken(lock, cut))
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await asyncio.wait({waiting})
        raise


async def _taken(lock: asyncio.Lock, cut: Callable[[], None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVES):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN), lock:
                        return
                cut()  # SQLite does not hear an interrupt that comes before its thread has begun the statement
