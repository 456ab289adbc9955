"""How a process ends: it starts nothing more, then its callers wait no longer, then it takes nothing over."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from polysaga.clock import Clock
from polysaga.limits import GRACE, result_after

T = TypeVar("T")


class Closing:
    """The end of one process; *drain* seconds are between the first and the second of its stages."""

    def __init__(self, clock: Clock, drain: float) -> None:
        self._clock, self._drain = clock, drain
        self._began_at: float | None = None  # the clock's reading
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.drained = False  # nothing is taken over any more

    @property
    def begun(self) -> bool:
        """Whether the process starts nothing more."""
        return self._began_at is not None

    @property
    def is_over(self) -> bool:
        """Whether callers wait no longer."""
        return self._over.done()

    @property
    def left(self) -> float:
        """Seconds until callers wait no longer, once the end has begun."""
        assert self._began_at is not None
        return max(self._began_at + self._drain - self._clock.monotonic(), 0.0)

    def begin(self, end_waiting: Callable[[], None]) -> None:
        """Start nothing more, and call *end_waiting* when the drain is over; harmless when repeated."""
        if self._began_at is None:
            self._began_at = self._clock.monotonic()
            asyncio.get_running_loop().call_later(self._drain, end_waiting)

    def end_waiting(self) -> None:
        """End the wait of all callers."""
        if not self._over.done():
            self._over.set_result(None)

    async def while_open(self, work: Awaitable[T], otherwise: Exception) -> T:
        """Return the result of *work* for a caller; raise *otherwise* when callers wait no longer.

        Neither a silent database nor a driver that swallows a cancellation holds the caller then.
        """
        task = asyncio.ensure_future(work)
        wait: Awaitable[object]
        if self.is_over:
            wait = asyncio.wait({task}, timeout=GRACE)  # the result may be there already
        else:
            first: set[asyncio.Future[Any]] = {task, self._over}
            wait = asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        return await result_after(wait, task, otherwise)
