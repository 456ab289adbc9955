"""What a pool of connections is used for now, and how often and how long callers have waited for it.

Only a caller that has to wait is counted and timed. A connection that lies ready is lent as SQLAlchemy does it,
without another call or object.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
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


class CountedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, which also counts its waiting callers."""

    _queue_class = _CountedQueue

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
