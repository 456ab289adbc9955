"""SQLite without a thread switch for every statement, which is most of the cost of a run on files.

aiosqlite passes each call to the connection's own thread. This module runs a statement at once if its lock is
free. Only waiting for a lock still happens in the thread, where it does not block the event loop.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from polysaga.databases import Node, SqlNode

_Call = tuple["asyncio.Future[Any] | None", Callable[[], Any]]


class _Queue(Protocol):
    def put_nowait(self, call: _Call) -> None: ...


def quicken(node: Node) -> None:
    """Make connections of *node* opened from now on run their statements at once; SQLite only."""
    for engine in _engines(node):
        _quicken(engine, _always)


async def quicken_all(node: Node, waits: Callable[[], bool]) -> None:
    """Do as `quicken` does, but replace idle open connections too.

    While *waits* returns False, a statement that meets a lock fails at once, not after its lock timeout.
    """
    for engine in _engines(node):
        _quicken(engine, waits)
        await engine.dispose()


def _engines(node: Node) -> list[AsyncEngine]:
    if isinstance(node, SqlNode) and node.url.drivername == "sqlite+aiosqlite":
        return [node.writer, node.reader]
    return []


def _always() -> bool:
    return True


def _quicken(engine: AsyncEngine, waits: Callable[[], bool]) -> None:
    @event.listens_for(engine.sync_engine, "do_connect", insert=True)
    def allow_threads(dialect: Any, record: Any, positional: Any, named: dict[str, Any]) -> None:
        named["check_same_thread"] = False

    @event.listens_for(engine.sync_engine, "connect")
    def replace_queue(adapted: Any, record: Any) -> None:
        connection = adapted.driver_connection
        connection._tx = AtOnce(connection._tx, connection._conn, waits)  # noqa: SLF001 - aiosqlite offers no place


class AtOnce:
    """Replaces a connection's queue.

    The event loop and the thread never use the connection at the same time. SQLite would survive that, except for
    a `close()` during a statement, which ends the interpreter. So while the thread has work left, every call
    queues behind it: a statement, a rollback, the end of the connection.
    """

    def __init__(self, queue: _Queue, connection: sqlite3.Connection, waits: Callable[[], bool] = _always) -> None:
        self._queue, self._connection, self._waits = queue, connection, waits
        # Each counter has one writer: the event loop counts the calls it hands over, the thread those it has done.
        self._handed_over = self._done = 0
        # Only processes die here, not machines: without syncing to the disk nothing is lost.
        connection.execute("PRAGMA synchronous = OFF")
        (self._patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
        self._wait_for(0)

    def put_nowait(self, call: _Call) -> None:
        """Run *call*; leave it to the thread if that is busy, a lock is held, or the call ends the thread."""
        future, function = call
        if future is None or getattr(function, "func", None) is None or self._thread_is_busy:
            self._hand_over(future, function)
            return
        try:
            result = function()  # other errors go straight to the caller, which does not wait yet
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not self._waits():
                raise
            self._hand_over(future, function)
        else:
            future.set_result(result)

    def cut(self) -> None:
        """Close the connection without a rollback; open transactions are void, as after a process's end."""
        if self._thread_is_busy:
            self._hand_over(None, self._connection.close)
        else:
            self._connection.close()

    @property
    def _thread_is_busy(self) -> bool:
        return self._done != self._handed_over

    def _hand_over(self, future: "asyncio.Future[Any] | None", function: Callable[[], Any]) -> None:
        self._handed_over += 1
        self._queue.put_nowait((future, lambda: self._patiently(function)))

    def _patiently(self, function: Callable[[], Any]) -> Any:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
            self._wait_for(self._patience)
        try:
            return function()
        finally:
            with contextlib.suppress(sqlite3.ProgrammingError):
                self._wait_for(0)
            self._done += 1

    def _wait_for(self, milliseconds: int) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {milliseconds:d}")
