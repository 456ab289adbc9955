"""aiosqlite's connection, whose thread is stopped once and asked nothing afterwards.

The thread ends with the first request to stop. What is put into its queue behind that is never answered, and the
task that waits for it waits for ever. So would the second of two tasks that close one connection at the same time.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

_ITERATED = 64  # rows that are fetched at once, aiosqlite's default


class _EndedQueue:
    """The queue of a thread that ends."""

    def put_nowait(self, _: object) -> NoReturn:
        raise ValueError("Connection closed")  # what aiosqlite itself says of it


@cache
def connection_class(driver: Any) -> type:
    """Return the connection of *driver*, the module aiosqlite, that does as this module says."""

    def _end() -> object:
        return driver.core._STOP_RUNNING_SENTINEL  # noqa: SLF001 - only this ends the thread

    class StoppedOnceConnection(driver.Connection):  # type: ignore[misc]
        _tx: Any  # aiosqlite's: the queue of the thread

        def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
            super().__init__(connector, _ITERATED)
            self._thread.daemon = True  # as SQLAlchemy has it: what is never closed holds up no process
            self._stopped: asyncio.Future[Any] | None = None

        def stop(self) -> "asyncio.Future[Any] | None":
            """Let the thread close the file and end; each caller may wait for that, and be cancelled."""
            if self._tx is not _STOPPED:
                self._stopped = super().stop()
                self._tx.put_nowait((None, _end))  # if the file could not be closed, the thread goes on
                self._tx = _STOPPED
            return None if self._stopped is None else asyncio.shield(self._stopped)

        async def close(self) -> None:
            """Close the file and end the thread, or wait until another task has done so."""
            if self._tx is not _STOPPED:
                await super().close()
            elif (ended := self.stop()) is not None:
                await ended

    return StoppedOnceConnection


_STOPPED = _EndedQueue()
