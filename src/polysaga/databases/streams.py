"""Server-side cursors that know when their transaction is over.

SQLAlchemy lets a result of `session.stream()` be read on after its session has ended: on the connection that the
pool has lent to another user by then. On PostgreSQL that aborts the transaction of this user. And with asyncpg and
asyncmy it fetches without the lock that statements take, so a transaction could end under a fetch.
"""

from asyncio import Lock
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine

from polysaga.databases.dialects.sql import ENDING, STREAMS, SqlDialect
from polysaga.databases.driver_errors import errors_of_use, known
from polysaga.errors import SessionOver

_OVER = "the transaction that this result is streamed in has ended"
_REMEDY = (
    "read the result to its end before a commit, a rollback or the end of the block, and before the request "
    "writes if it reads from a replica"
)


class Streams:
    """The results that are streamed in one transaction."""

    def __init__(self) -> None:
        self._open: WeakSet[_Stream] = WeakSet()

    def add(self, stream: "_Stream") -> None:
        """Close *stream* with the others."""
        self._open.add(stream)

    async def close(self) -> None:
        """Close those that are still in use."""
        for stream in tuple(self._open):
            await stream.end()


def end_with_the_transaction(engine: Engine, dialect: SqlDialect, database: str) -> None:
    """Let results that are streamed on *engine* end with the transaction that they were begun in."""
    # Not by listeners: one that executes a statement keeps those behind it from looking at it.
    sqlalchemys: Any = engine.dialect
    errors = errors_of_use(sqlalchemys)
    sqlalchemys.do_execute = partial(_execute, sqlalchemys.do_execute, dialect, errors, database)


def _execute(
    do_execute: Callable[..., None],
    dialect: SqlDialect,
    errors: tuple[type[Exception], ...],
    database: str,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any = None,
) -> None:
    do_execute(cursor, statement, parameters, context)
    if not cursor.server_side:
        return
    pooled = context.root_connection.connection
    adapted = pooled.dbapi_connection
    lock = dialect.statement_lock(adapted)
    takes_it = lock is not adapted._execute_mutex  # noqa: SLF001 - psycopg's own, which its fetch takes
    mine = pooled.info.get(STREAMS)
    if mine is None:
        mine = pooled.info[STREAMS] = Streams()

    def refuse_if_over() -> None:
        if pooled.dbapi_connection is not adapted or pooled.info.get(STREAMS) is not mine or ENDING in pooled.info:
            raise SessionOver(database, _OVER, _REMEDY)

    fetches = _Fetches(adapted, None if takes_it else lock, errors, refuse_if_over)
    cursor._cursor = stream = _Stream(cursor._cursor, fetches)  # noqa: SLF001
    mine.add(stream)


@dataclass(frozen=True)
class _Fetches:
    """How the pages of one stream are fetched."""

    adapted: Any  # SQLAlchemy's connection
    lock: Lock | None  # None: the fetch takes it
    errors: tuple[type[Exception], ...]
    refuse_if_over: Callable[[], None]

    async def alone(self, fetch: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Fetch while no statement is under way, and raise what SQLAlchemy knows.

        Its adapter of asyncpg lets the errors of later pages through as they are.
        """
        self.refuse_if_over()
        async with nullcontext() if self.lock is None else self.lock:
            try:
                return await fetch(*given, **named)
            except self.errors as error:
                raise known(self.adapted, error, self.errors) from error


class _Stream:
    """The driver's cursor, whose fetches take turns with statements, and raise once the transaction is over."""

    def __init__(self, cursor: Any, fetches: _Fetches) -> None:
        self._cursor, self._fetches = cursor, fetches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __aiter__(self) -> "_Stream":
        self._cursor = self._cursor.__aiter__()
        return self

    async def __anext__(self) -> Any:
        return await self._fetches.alone(self._cursor.__anext__)

    async def fetch(self, *given: Any, **named: Any) -> Any:
        return await self._fetches.alone(self._cursor.fetch, *given, **named)

    async def fetchone(self) -> Any:
        return await self._fetches.alone(self._cursor.fetchone)

    async def fetchmany(self, *given: Any, **named: Any) -> Any:
        return await self._fetches.alone(self._cursor.fetchmany, *given, **named)

    async def fetchall(self) -> Any:
        return await self._fetches.alone(self._cursor.fetchall)

    async def close(self) -> None:
        try:
            self._fetches.refuse_if_over()
        except SessionOver:
            return  # the end of the transaction has closed it
        await self._fetches.alone(self._cursor.close)

    async def end(self) -> None:
        """Close the cursor for the end of its transaction."""
        await self._cursor.close()
