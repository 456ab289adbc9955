"""What a pool of connections is used for now, and how often and how long callers have waited for it.

Only a caller that has to wait is counted and timed. A connection that lies ready is lent as SQLAlchemy does it,
without another call or object.

A connection whose return is cancelled or fails is replaced, and its place is free again. SQLAlchemy's pool
resets the isolation level and calls listeners before it counts the place as free. If one of those raised, the
place would count as lent for ever.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util.queue import AsyncAdaptedQueue

from polysaga.clock import Clock


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One pool of a node at one moment; *waits* and *waited* count since the database was opened."""

    name: str  # writer, reader or reserved (SQL); the address of the member (MongoDB)
    size: int  # connections that it keeps
    max_overflow: int  # connections that it may open beyond that
    in_use: int
    idle: int
    waiting: int  # callers that wait for a connection now
    waits: int | None  # callers that had to wait; None if the driver does not count them
    waited: float | None  # seconds that they waited, all together

    @property
    def overflow(self) -> int:
        """The connections that are open beyond the size."""
        return max(0, self.in_use + self.idle - self.size)


class _CountedQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """The idle connections of a pool; counts those that wait for one."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        super().__init__(maxsize, use_lifo)
        self.waiting = self.waits = 0
        self.waited = 0.0
        self._clock = Clock()

    def get(
        self,
        block: bool = True,  # noqa: FBT001, FBT002 - SQLAlchemy's
        timeout: float | None = None,
    ) -> ConnectionPoolEntry:
        if not block:
            return self.get_nowait()
        try:
            return self._queue.get_nowait()
        except asyncio.QueueEmpty:
            pass
        began = self._clock.monotonic()
        self.waits += 1
        self.waiting += 1
        try:
            return super().get(block, timeout)
        finally:
            self.waiting -= 1
            self.waited += self._clock.monotonic() - began


class _KeptPlace(_ConnectionRecord):
    """A place in the pool; the pool gets it back, whatever happens on the way."""

    is_back = True  # the pool has it, or has closed it because it has enough

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._pool = pool

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        fairy = None if self.fairy_ref is None else self.fairy_ref()
        self.is_back = False
        try:
            super().checkin(_fairy_was_created)
        except BaseException as error:  # border: listeners, and what a driver raises
            ended = error if self.is_back else self._replaced(error)
            if isinstance(ended, Exception):
                self._pool.logger.error("a connection came back broken and is replaced", exc_info=ended)
                return
            if fairy is not None:
                # It must not act on the place any more, which may be another user's by then.
                fairy._finalizer.detach()  # noqa: SLF001
                fairy.dbapi_connection = fairy._connection_record = None  # type: ignore[assignment] # noqa: SLF001
            raise ended from None

    def _replaced(self, error: BaseException) -> BaseException:
        """Give the place back without its connection; return *error*, or what ended this task meanwhile."""
        try:
            self.invalidate(error)
        except BaseException as another:  # noqa: BLE001 - border: listeners, and what a driver raises
            error = error if isinstance(another, Exception) else another
        self.dbapi_connection = None  # the next user connects
        self._pool._return_conn(self)  # noqa: SLF001
        return error


class CountedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, which also counts its waiting callers, and loses no place."""

    _queue_class = _CountedQueue

    def _create_connection(self) -> ConnectionPoolEntry:
        return _KeptPlace(self)

    def _return_conn(self, record: ConnectionPoolEntry) -> None:
        if isinstance(record, _KeptPlace):
            record.is_back = True
        super()._return_conn(record)

    def use(self, name: str) -> PoolUse:
        """Return what the pool is used for now, under *name*."""
        queue: Any = self._pool
        return PoolUse(
            name,
            self.size(),
            self._max_overflow,
            self.checkedout(),
            self.checkedin(),
            queue.waiting,
            queue.waits,
            queue.waited,
        )
