"""How many transactions of sagas one process has at once on one database.

A step that waits for a pooled connection, or behind conflicting transactions, uses up its time-out and fails
although nothing is wrong with it; the retries form the next queue. So steps wait here instead, in order and
before their time begins. The gate has as many places as the pool has connections, less a few. Those are for the
journal's own writes, which keep the claims, and for the rest of the program.

When most steps of one second fail by conflicts or time-outs, the gate halves its places, down to one; when most
succeed, it doubles them (multiplicative decrease and increase, as in Netflix `concurrency-limits`, 2018).
"""

import asyncio
from collections import deque

from polysaga.clock import Clock
from polysaga.databases import Fault
from polysaga.databases.single_writer import exhausted
from polysaga.errors import PoolExhausted

_WINDOW = 1.0  # seconds
_LEFT_OVER = 5  # one connection of so many is for others
_CROWDED = {
    Fault.POOL_EXHAUSTED,
    Fault.TOO_MANY_CONNECTIONS,
    Fault.DEADLOCK,
    Fault.SERIALIZATION,
    Fault.LOCK_TIMEOUT,
    Fault.STATEMENT_TIMEOUT,
}


class Gate:
    """The way to one database, for the steps of this process; a *single_writer* takes one at a time."""

    def __init__(self, database: str, connections: int, clock: Clock, *, single_writer: bool = False) -> None:
        self.database, self.single_writer = database, single_writer
        self.most = max(1, connections - connections // _LEFT_OVER)
        self.limit = self.most  # how many may be inside now
        self._clock = clock
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._window_began = self._left_at = clock.monotonic()
        self._well = self._badly = 0
        self._answered = 0  # steps that have left without an error

    @property
    def inside(self) -> int:
        """How many steps are inside now."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many steps wait for a place now."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more steps can enter soon: twice the places, less those inside and waiting."""
        return 2 * self.limit - self._inside - len(self._waiting)

    def full(self, waited: float) -> PoolExhausted:
        """Return the error for a caller that *waited* so many seconds in vain."""
        return exhausted(self.database, self.most, waited, one_writer=self.single_writer)

    async def enter(self, seconds: float | None = None) -> None:
        """Return when there is a place; raise `TimeoutError` after *seconds*. `leave` gives it back."""
        if self._inside < self.limit and not self._waiting:
            self._inside += 1
            return
        place = self._queue_up()
        try:
            async with asyncio.timeout(seconds):
                await place
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(place)
            raise

    async def enter_unless_stuck(self, seconds: float) -> None:
        """Return when there is a place, however long the queue; raise `TimeoutError` if the database is stuck.

        A database is stuck if no step has left the gate without an error for *seconds*.
        """
        if self._inside < self.limit and not self._waiting:
            self._inside += 1
            return
        place = self._queue_up()
        try:
            while not place.done():
                answered = self._answered
                await asyncio.wait({place}, timeout=seconds)
                if not place.done() and self._answered == answered:
                    raise TimeoutError
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(place)
            raise

    def leave(self, error: BaseException | None, fault: Fault | None) -> None:
        """Give back the place; *error* and *fault* are the outcome."""
        self._inside -= 1
        self._answered += error is None
        now = self._clock.monotonic()
        if now - self._left_at >= 2 * _WINDOW:
            self._well = self._badly = 0  # of another second, which may be an hour ago
        self._left_at = now
        if fault in _CROWDED or (fault is None and isinstance(error, TimeoutError)):
            self._badly += 1
        else:
            self._well += 1
        if now - self._window_began >= _WINDOW:
            self._adapt()
        self._let_in()

    def _queue_up(self) -> "asyncio.Future[None]":
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        return place

    def _give_up(self, place: "asyncio.Future[None]") -> None:
        if place.done() and not place.cancelled():
            self._inside -= 1  # the place came in the same moment
            self._let_in()
        elif place in self._waiting:
            self._waiting.remove(place)

    def _adapt(self) -> None:
        if self._badly > self._well:
            self.limit = max(1, self.limit // 2)
        elif self.limit < self.most and self._badly * 4 <= self._well:
            self.limit = min(self.most, self.limit + max(1, self.limit // 2))
        self._window_began, self._well, self._badly = self._clock.monotonic(), 0, 0

    def _let_in(self) -> None:
        while self._waiting and self._inside < self.limit:
            place = self._waiting.popleft()
            if not place.done():  # its caller may have been cancelled just now
                self._inside += 1
                place.set_result(None)
