"""Limits that hold whatever a driver does with a cancellation.

`asyncio.timeout` and `asyncio.wait_for` cancel once and then wait for what they cancelled. A driver that swallows
the cancellation, or hangs in its cleaning up, makes them wait for ever. What is awaited here is left behind
instead: it may go on, and neither the caller nor the end of the event loop waits for it.
"""

import asyncio
from collections.abc import Awaitable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

GRACE = 1.0  # seconds that cancelled work gets to clean up


async def limited(work: Awaitable[T], seconds: float, *, grace: float = GRACE) -> T:
    """Return what *work* returns; cancel it after *seconds*, and leave it behind *grace* seconds later.

    Raises `TimeoutError` then. What *work* returns or raises within the grace counts.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await ended({task}, grace)
        raise
    if not task.done():
        await ended({task}, grace)
    if not task.done() or task.cancelled():
        raise TimeoutError
    return task.result()


async def ended(tasks: Collection["asyncio.Future[Any]"], seconds: float) -> "set[asyncio.Future[Any]]":
    """Cancel *tasks* and wait at most *seconds* until they have ended; return those left behind."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return set()
    _, stuck = await asyncio.wait(tasks, timeout=seconds)
    for task in stuck:
        leave_behind(task)
    return stuck


def leave_behind(task: "asyncio.Future[Any]") -> None:
    """Have nobody wait for *task* any more, the end of the event loop (`asyncio.run`) included."""
    if isinstance(task, asyncio.Task):
        asyncio._unregister_task(task)  # noqa: SLF001 - documented for those who extend asyncio
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio.gather
    task.add_done_callback(_forget)


def leave_cancelled_behind() -> None:
    """Leave behind all tasks of this loop that were cancelled and go on: drivers make tasks of their own.

    For the end of a process, when something has been left behind already.
    """
    for task in asyncio.all_tasks():
        if task.cancelling() and task is not asyncio.current_task():
            leave_behind(task)


def _forget(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # nobody asks for it any more; that is not an error
