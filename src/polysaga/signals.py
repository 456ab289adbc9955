"""Listening for the signals that ask the process to end.

ASGI servers let the requests under way finish before they shut the application down. A request that waits for a
saga would delay that without a limit, and so would a start that waits for a silent database. The signal arrives
first, so the application listens to it.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def heard(tell: Callable[[], None]) -> Iterator[None]:
    """Call *tell* in the running loop when the process is asked to end; the server's handlers still run.

    Does nothing if the process has no handlers of its own, or in any thread but the main one.
    """
    loop, before, listening = asyncio.get_running_loop(), dict[signal.Signals, Any](), True

    def hear() -> None:
        # An application that began later may restore our handler after we, and our loop, have ended.
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


def _is_own(handler: Any) -> bool:
    return callable(handler) and handler is not signal.default_int_handler


def _chain(
    theirs: Callable[[int, FrameType | None], Any], hear: Callable[[], None]
) -> Callable[[int, FrameType | None], None]:
    def hear_and_pass_on(number: int, frame: FrameType | None) -> None:
        hear()
        theirs(number, frame)

    return hear_and_pass_on
