"""Limits on how long something may take, with one timer for everything that a process waits for.

`asyncio.timeout` promises the same with a timer for each use, which is made, put in order and cancelled for
steps that are nearly all over long before (`docs/decisions/0002-statements-on-the-driver.md`). Here the timer
goes off at the earliest deadline that was known when it was set, looks who is late and is set anew; whoever
was in time has left nothing behind.

A driver can swallow a cancellation, so what is late is cancelled again as long as it goes on.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

_NEVER = math.inf
_AGAIN = 5.0  # seconds until what was cancelled and goes on is cancelled again: cleaning up takes a while
_HANGS = 3  # cancellations after which something is taken to hang


class Timeouts:
    """The deadlines of everything that is under way."""

    def __init__(self) -> None:
        self.open: set[Timeout] = set()
        self.next_look = _NEVER  # the time of the event loop when somebody may be late
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float, hangs: Callable[[], None] | None = None) -> "Timeout":
        """Return a `with` block for what the current task awaits.

        If it takes longer than *seconds* it is cancelled, again and again until it ends; then the block raises
        `TimeoutError`. *hangs* is called, once, when it has gone on in spite of several cancellations.
        """
        return Timeout(self, seconds, hangs)

    def hanging(self) -> "set[asyncio.Task[Any]]":
        """Return the tasks that go on although they were cancelled several times, seconds apart."""
        return {one.task for one in self.open if one.passed >= _HANGS}

    def look_at(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        """Look who is late at the loop's time *at*, which is earlier than `next_look`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.next_look = loop.call_at(at, self._look, loop), at

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self.next_look = None, _NEVER
        now = loop.time()
        for deadline in self.open:
            if deadline.at <= now:
                deadline.expire(now)
        if self.open:
            self.look_at(min(one.at for one in self.open), loop)


class Timeout:
    """One limit, for one use; `Timeouts.within` makes it."""

    __slots__ = ("_cancelling", "_hangs", "_timeouts", "at", "loop", "passed", "task")

    def __init__(self, timeouts: Timeouts, seconds: float, hangs: Callable[[], None] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._timeouts, self._hangs, self.task, self.passed = timeouts, hangs, task, 0
        self._cancelling = task.cancelling()
        self.loop = task.get_loop()
        self.at = self.loop.time() + seconds

    def expire(self, now: float) -> None:
        """Cancel what takes too long at the loop's time *now*."""
        self.passed += 1
        self.at = now + _AGAIN
        self.task.cancel()
        if self.passed == _HANGS and self._hangs is not None:
            self._hangs()

    def __enter__(self) -> None:
        timeouts = self._timeouts
        timeouts.open.add(self)
        if self.at < timeouts.next_look:
            timeouts.look_at(self.at, self.loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._timeouts.open.discard(self)
        left = self.task.cancelling()
        for _ in range(self.passed):
            left = self.task.uncancel()
        # Somebody else may have cancelled the task besides: that goes before being late.
        if self.passed and left <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
