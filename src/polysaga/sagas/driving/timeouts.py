"""Limits on how long something may take, with one timer for everything that a process waits for.

`asyncio.timeout` makes, sorts and cancels a timer for each use, although nearly all steps end long before
(`docs/decisions/0002-statements-on-the-driver.md`). Here one timer fires at the earliest limit, cancels what is
late and is set again. A step that ends in time costs one insertion into a set and one removal.

A driver can swallow a cancellation, so a late step is cancelled again and again until it ends.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

_NEVER = math.inf
_AGAIN = 5.0  # seconds until a step that goes on is cancelled again: cleaning up takes a while
_HANGS = 3  # cancellations after which a step counts as hanging


class Timeouts:
    """The limits of everything that is under way."""

    def __init__(self) -> None:
        self.open: set[Timeout] = set()
        self.next_look = _NEVER  # the loop's time at which the timer fires
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float, hangs: Callable[[], None] | None = None) -> "Timeout":
        """Return a `with` block for what the current task awaits.

        If that takes longer than *seconds*, the task is cancelled again and again until the block ends; then the
        block raises `TimeoutError`. *hangs* is called once, when several cancellations had no effect.
        """
        return Timeout(self, seconds, hangs)

    def hanging(self) -> "set[asyncio.Task[Any]]":
        """Return the tasks that go on although they were cancelled several times, seconds apart."""
        return {one.task for one in self.open if one.passed >= _HANGS}

    def look_at(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer to the loop's time *at*, which is earlier than `next_look`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.next_look = loop.call_at(at, self._look, loop), at

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self.next_look = None, _NEVER
        now = loop.time()
        for limit in self.open:
            if limit.at <= now:
                limit.expire(now)
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
        """Cancel the task, which is late at the loop's time *now*."""
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
        # Another cancellation of the task takes precedence over the timeout.
        if self.passed and left <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
