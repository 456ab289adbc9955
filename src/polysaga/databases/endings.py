"""The end of a transaction while another task is inside a statement of it.

SQLAlchemy lets one task at a time use a session or a connection, and checks little of it. A transaction that is
committed or rolled back under a statement breaks in as many ways as there are drivers: asyncpg leaves it open on a
connection of the pool, asyncmy waits for an answer that another task has read, and psycopg executes what it is
sent next in the transaction of the next user.

So a transaction whose statement has not ended cannot be committed; when it is rolled back, the connection is cut,
and leaves the pool. While it ends, and once its connection is back in the pool, other tasks can send no statement.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from polysaga.databases.dialects.sql import SqlDialect
from polysaga.errors import SessionShared

ENDING = "polysaga.ending"  # in a connection's info: the task that ends the transaction
_LEAVES = 5.0  # seconds that a task gets to leave its statement after the connection was cut

End = Callable[[PoolProxiedConnection], None]


def held(lock: asyncio.Lock) -> bool:
    """Return whether a task holds *lock* or is the next to hold it: on its way to the next it is not locked."""
    return lock.locked() or bool(lock._waiters)  # noqa: SLF001


def end_alone(engine: Engine, dialect: SqlDialect, database: str) -> None:
    """Let transactions on *engine* end as the module says."""
    sqlalchemys: Any = engine.dialect
    sqlalchemys.do_commit = partial(_commit, sqlalchemys.do_commit, dialect, database)
    sqlalchemys.do_rollback = partial(_roll_back, sqlalchemys.do_rollback, dialect)
    for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execution, partial(_refuse_others, database))


def _commit(do_commit: End, dialect: SqlDialect, database: str, lent: PoolProxiedConnection) -> None:
    if held(dialect.statement_lock(lent.dbapi_connection)):
        # SQLAlchemy takes a commit that fails for the end of the transaction; the server does not.
        _alone(partial(_break_off, dialect), lent)
        raise SessionShared(database)
    _alone(do_commit, lent)


def _roll_back(do_rollback: End, dialect: SqlDialect, lent: PoolProxiedConnection) -> None:
    if held(dialect.statement_lock(lent.dbapi_connection)):
        _alone(partial(_break_off, dialect), lent)
    else:
        _alone(do_rollback, lent)


def _alone(end: End, lent: PoolProxiedConnection) -> None:
    info = _info(lent)
    if info is None or ENDING in info:
        return end(lent)
    info[ENDING] = task = asyncio.current_task()
    try:
        return end(lent)
    finally:
        if info.get(ENDING) is task:  # else the connection was replaced, and its next user is ending
            del info[ENDING]


def _break_off(dialect: SqlDialect, lent: PoolProxiedConnection) -> None:
    # A driver that closes a connection under a task may break the next one that gets the same file descriptor.
    lock, driver = dialect.statement_lock(lent.dbapi_connection), lent.driver_connection
    dialect.cut(driver)
    await_only(_left(lock))
    if lent.is_valid:  # else SQLAlchemy has heard of it from the other task
        lent.invalidate()


async def _left(lock: asyncio.Lock) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVES), lock:
            pass


def _refuse_others(database: str, cursor: Any, statement: str, *rest: Any) -> None:
    info = _info(rest[-1].root_connection)  # raises if it was given back, under a statement of many pages
    if info is None:
        return
    ending = info.get(ENDING)
    if ending is not None and ending is not asyncio.current_task():
        raise SessionShared(database)


def _info(connection: Connection | PoolProxiedConnection) -> dict[Any, Any] | None:
    try:
        return connection.info
    except NotImplementedError:
        return None  # SQLAlchemy looks at the server, before the pool has the connection
