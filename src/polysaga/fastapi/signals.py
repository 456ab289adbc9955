"""Hearing that the process is asked to end when it is asked.

Servers of ASGI applications let the requests under way finish before they tell the application to end. A request
that waits for a saga would hold them up without a limit, and so would a start that waits for a silent database.
The signal comes first, so the application listens to it.
"""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from polysaga.limits import GRACE, ended

T = TypeVar("T")

_ASKING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def heard(tell: Callable[[], None]) -> Iterator[None]:
    """Call *tell* in the running loop when the process is asked to end, besides what the server does then.

    A process without handlers of its own is left alone, and so is any thread but the main one.
    """
    loop, before, listening = asyncio.get_running_loop(), dict[signal.Signals, Any](), True

    def hear() -> None:
        # Another application that began later may put our handler back after we have ended, and the loop with us.
        if listening:
            loop.call_soon_threadsafe(tell)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _ASKING}
    chained = {number: _chain(theirs, hear) for number, theirs in before.items() if _is_own(theirs)}
    for number, ours in chained.items():
        signal.signal(number, ours)
    try:
        yield
    finally:
        listening = False
        for number, ours in chained.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, before[number])


async def unless(asked: asyncio.Event, work: Awaitable[T]) -> T:
    """Return what *work*, a part of the start, returns; once *asked* is set, break it off within a second.

    Raises `CancelledError` then, also if *work* goes on although it is cancelled: it is left behind.
    """
    task, asking = asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({task, asking}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise asyncio.CancelledError("the process was asked to end while it started")
    finally:
        await ended({task, asking}, GRACE)


def _is_own(handler: Any) -> bool:
    return callable(handler) and handler is not signal.default_int_handler


def _chain(
    theirs: Callable[[int, FrameType | None], Any], hear: Callable[[], None]
) -> Callable[[int, FrameType | None], None]:
    def hear_and_pass_on(number: int, frame: FrameType | None) -> None:
        hear()
        theirs(number, frame)

    return hear_and_pass_on
