"""Time limits that hold whatever a driver does with a cancellation.

`asyncio.timeout` and `asyncio.wait_for` cancel once and then wait for the cancelled work. A driver that swallows
the cancellation, or hangs in its clean-up, makes them wait for ever. This module abandons such work instead: it
may go on, but neither the caller nor the end of the event loop waits for it.
"""

import asyncio
from collections.abc import Awaitable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

ASKED_TO_END = "the process was asked to end while it started"
GRACE = 1.0  # seconds that cancelled work gets to clean up
_going_on: set["asyncio.Future[Any]"] = set()  # the loop itself keeps no task alive


async def limited(work: Awaitable[T], seconds: float, *, grace: float = GRACE) -> T:
    """Return what *work* returns; cancel it after *seconds*, and abandon it *grace* seconds later.

    Raises `TimeoutError` then. What *work* returns or raises within the grace still counts.
    """
    task = asyncio.ensure_future(work)
    return await result_after(asyncio.wait({task}, timeout=seconds), task, TimeoutError(), grace=grace)


async def result_after(
    wait: Awaitable[object], task: "asyncio.Future[T]", otherwise: Exception, *, grace: float = GRACE
) -> T:
    """Return the result of *task* after *wait*; cancel what has not ended by then, and raise *otherwise*.

    A task that has not ended *grace* seconds later is abandoned. If this call is cancelled, so is the task.
    """
    try:
        await wait
    except asyncio.CancelledError:
        await ended({task}, grace)
        raise
    if not task.done():
        await ended({task}, grace)
    if not task.done() or task.cancelled():
        raise otherwise
    return task.result()


async def ended(tasks: Collection["asyncio.Future[Any]"], seconds: float) -> "set[asyncio.Future[Any]]":
    """Cancel *tasks*, wait at most *seconds* for their end, and return those that were abandoned."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return set()
    _, stuck = await asyncio.wait(tasks, timeout=seconds)
    for task in stuck:
        leave_behind(task)
    return stuck


def going_on(work: Awaitable[T]) -> "asyncio.Future[T]":
    """Begin *work*, which goes on to its end although its caller may not wait for it; return its task.

    An error that it ends with then is dropped.
    """
    task = asyncio.ensure_future(work)
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    task.add_done_callback(_forget)
    return task


def leave_behind(task: "asyncio.Future[Any]") -> None:
    """Abandon *task*: nothing waits for it any more, not even the end of the event loop (`asyncio.run`)."""
    if isinstance(task, asyncio.Task):
        asyncio._unregister_task(task)  # noqa: SLF001 - documented for those who extend asyncio
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio.gather
    task.add_done_callback(_forget)


def leave_cancelled_behind(*, but: "asyncio.Task[Any] | None" = None) -> None:
    """Abandon all tasks of this loop that were cancelled and still run, the drivers' own tasks included.

    For the end of a process, when some work has been abandoned already. *but* is the task that ends it, which may
    have been cancelled, too.
    """
    for task in asyncio.all_tasks():
        if task.cancelling() and task is not but and task is not asyncio.current_task():
            leave_behind(task)


def _forget(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # retrieve it: asyncio would log an exception that was never retrieved


async def unless(asked: asyncio.Event, work: Awaitable[T]) -> T:
    """Return what *work*, a part of the start, returns; once *asked* is set, cancel it instead.

    Raises `CancelledError` then, within a second: *work* that ignores the cancellation is abandoned.
    """
    task, asking = asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())
    task.add_done_callback(_forget)  # what it ends with after its cancellation
    try:
        await asyncio.wait({task, asking}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise asyncio.CancelledError(ASKED_TO_END)
    finally:
        await ended({task, asking}, GRACE)
