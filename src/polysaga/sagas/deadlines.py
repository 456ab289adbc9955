"""Limits on how long something may take, with one timer for everything that a process waits for.

`asyncio.timeout` promises the same with a timer for each use, which is made, put in order and cancelled for
steps that are nearly all over long before (`docs/decisions/0002-statements-on-the-driver.md`). Here the timer
goes off at the earliest deadline that was known when it was set, looks who is late and is set anew; whoever
was in time has left nothing behind.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Deadlines:
    """The deadlines of everything that is under way."""

    def __init__(self) -> None:
        self._open: set[_Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """Await *work*; raise `TimeoutError`, once it has been cancelled, if it takes longer than *seconds*."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        deadline = _Deadline(task, loop.time() + seconds)
        self._open.add(deadline)
        if self._timer is None or deadline.at < self._timer.when():
            self._set(loop, deadline.at)
        cancelling = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError as error:
            # Somebody else may have cancelled the task besides: that goes before being late.
            if deadline.passed and task.cancelling() - 1 <= cancelling:
                raise TimeoutError from error
            raise
        finally:
            self._open.discard(deadline)
            if deadline.passed:
                task.uncancel()

    def _set(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for deadline in [one for one in self._open if one.at <= now]:
            self._open.discard(deadline)
            deadline.passed = True
            deadline.task.cancel()
        if self._open:
            self._set(loop, min(one.at for one in self._open))


class _Deadline:
    """One use of `within`."""

    __slots__ = ("at", "passed", "task")

    def __init__(self, task: "asyncio.Task[object]", at: float) -> None:
        self.task, self.at, self.passed = task, at, False
