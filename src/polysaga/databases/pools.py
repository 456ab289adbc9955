"""What a pool of connections is used for now, and how often and how long callers have waited for it.

Only a caller that has to wait is counted and timed. A connection that lies ready is lent as SQLAlchemy does it,
without another call or object.

A connection whose loan or return is cancelled or fails is replaced, and its place is free again. SQLAlchemy's pool
would count the place as lent, for ever or until the garbage collector comes by, in three cases:

- a listener, or the reset of the isolation level, raises while the connection comes back;
- a connection is closed because it is broken or old, and the caller is cancelled within;
- the caller is cancelled while the isolation level of its engine is set.

A connection that is given up leaves its place at once. SQLAlchemy's pool closes it first. If two tasks give it up,
one of them then takes the connection of the place's next user out of the pool.

A place that becomes free goes to a caller that waits, also if the connection is closed. SQLAlchemy's pool lets the
caller sleep until its time is up.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord
from sqlalchemy.util import memoized_property
from sqlalchemy.util.queue import AsyncAdaptedQueue, Full

from polysaga.clock import Clock

ORIGIN = "polysaga_origin"  # the attribute of SQLAlchemy's errors that has their `Origin`


class Origin(NamedTuple):
    """Where an error of SQLAlchemy arose: in the pool of a node, or on one of its connections."""

    node: Any
    read_only: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """Be None in a copy of the error, which may be for another process."""
        return type(None), ()


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

    @memoized_property
    def _queue(self) -> "asyncio.Queue[ConnectionPoolEntry]":
        return asyncio.LifoQueue() if self.use_lifo else asyncio.Queue()  # `put_nowait` keeps the bound

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        """Keep *item* if it is one of *maxsize*, or if a caller waits for it; raise `Full` otherwise."""
        if self._queue.qsize() >= self.maxsize + self.waiting:
            raise Full
        self._queue.put_nowait(item)

    @property
    def starves(self) -> bool:
        """Whether a caller waits for whom no connection lies ready."""
        return self.waiting > self._queue.qsize()

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

    returned = False  # during `checkin`: the pool has it, or has closed it because it has enough

    def __init__(self, pool: Pool, connect: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        super().__init__(pool, connect)
        self._pool = pool

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        if self.fairy_ref is None and _fairy_was_created:
            super().checkin()  # it was checked in before: SQLAlchemy warns
            return
        fairy = self._fairy()
        self.returned = False
        try:
            super().checkin(_fairy_was_created)
        except BaseException as error:  # border: listeners, and what a driver raises
            ended = error if self.returned else self._replaced(error)
            if isinstance(ended, Exception):
                self._pool.logger.error("a connection came back broken", exc_info=ended)
                return
            _part(fairy)
            raise ended from None

    def invalidate(
        self,
        e: BaseException | None = None,
        soft: bool = False,  # noqa: FBT001, FBT002 - SQLAlchemy's
    ) -> None:
        if soft or self.dbapi_connection is None:
            super().invalidate(e, soft)
            return
        fairy = self._fairy()
        try:
            self._close_at_once(self.dbapi_connection, e)
        except BaseException:
            # Only some of SQLAlchemy's callers check in what could not be closed. A next user may have the place.
            if self.in_use and self._fairy() is fairy:
                self.checkin()
                _part(fairy)
            raise

    def _close_at_once(self, connection: DBAPIConnection, reason: BaseException | None) -> None:
        """Close *connection*, which is not this place's from the beginning on.

        Another task may meet the same broken connection while this one waits for a listener or for the driver, and
        give the place back: its next user must not lose a connection here.
        """
        self._log_invalidate(reason, soft=False)
        self.dbapi_connection = None
        self.finalize_callback.clear()
        listeners = self._pool.dispatch
        try:
            listeners.invalidate(connection, self, reason)
        finally:
            try:
                if listeners.close:
                    listeners.close(connection, self)
            finally:
                self._pool._close_connection(connection, terminate=True)  # noqa: SLF001

    def close(self) -> None:
        try:
            super().close()
        finally:
            left, self.dbapi_connection = self.dbapi_connection, None
            if left is not None:  # a listener failed
                self._pool._close_connection(left, terminate=True)  # noqa: SLF001

    def _checkin_failed(
        self,
        err: BaseException,
        _fairy_was_created: bool = True,  # noqa: FBT001, FBT002 - SQLAlchemy's
    ) -> None:
        try:
            self.invalidate(err)
        finally:
            if self.in_use or not _fairy_was_created:
                self.checkin(_fairy_was_created)

    def _fairy(self) -> _ConnectionFairy | None:
        return None if self.fairy_ref is None else self.fairy_ref()

    def _replaced(self, error: BaseException) -> BaseException:
        """Give the place back; its next user connects. Return *error*, or what ended this task meanwhile."""
        try:
            self.invalidate(error)
        except BaseException as another:  # noqa: BLE001 - border: listeners, and what a driver raises
            error = error if isinstance(another, Exception) else another
        self._pool._return_conn(self)  # noqa: SLF001
        return error


def _part(fairy: _ConnectionFairy | None) -> None:
    """Let *fairy* act on its place no more, which may be another user's by now."""
    if fairy is not None:
        fairy._finalizer.detach()  # noqa: SLF001
        fairy.dbapi_connection = fairy._connection_record = None  # type: ignore[assignment] # noqa: SLF001


class CountedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, which also counts its waiting callers, and loses no place."""

    _queue_class = _CountedQueue
    _is_disposed = False
    origin: Origin | None = None
    # Else what SQLAlchemy says of each pool that ends would come from the logger `polysaga`, which is for events.
    _sqla_logger_namespace = "sqlalchemy.pool.CountedPool"

    def _create_connection(self) -> ConnectionPoolEntry:
        return _KeptPlace(self)

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeout as error:
            setattr(error, ORIGIN, self.origin)
            raise

    def _return_conn(self, record: ConnectionPoolEntry) -> None:
        cast(_KeptPlace, record).returned = True
        super()._return_conn(record)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_disposed:
            record.close()  # no caller comes to this pool again
        elif record.dbapi_connection is None:
            # A new one: another task may still be about to give the old one back, and must not meet the next user.
            super()._do_return_conn(_KeptPlace(self, connect=False))
        else:
            super()._do_return_conn(record)

    def _dec_overflow(self) -> Literal[True]:
        queue = cast(_CountedQueue, self._pool)
        if queue.starves:
            queue.put_nowait(_KeptPlace(self, connect=False))  # the caller connects
            return True
        return super()._dec_overflow()

    def dispose(self) -> None:
        self._is_disposed = True
        super().dispose()

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


class _KeptConnection(Connection):
    """Gives its connection back if it cannot begin: a caller that is cancelled here has nothing to close."""

    def __init__(self, *given: Any, **named: Any) -> None:
        try:
            super().__init__(*given, **named)
        except BaseException as error:
            lent: PoolProxiedConnection | None = getattr(self, "_dbapi_connection", None)
            if lent is not None:
                lent.invalidate(error)
            raise


class _KeepingOptions(OptionEngine):
    """An engine with other options than the one it was made of."""

    _connection_cls = _KeptConnection


_KeepingOptions._option_cls = _KeepingOptions  # noqa: SLF001


def keep_places(engine: Engine) -> None:
    """Let no caller that is cancelled while *engine* lends it a connection keep the connection's place."""
    engine._connection_cls, engine._option_cls = _KeptConnection, _KeepingOptions  # noqa: SLF001
