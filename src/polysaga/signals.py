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
    loop, chains = asyncio.get_running_loop(), dict[signal.Signals, _Chain]()

    def hear() -> None:
        if not loop.is_closed():  # its end may have left this block open
            loop.call_soon_threadsafe(tell)

    if threading.current_thread() is threading.main_thread():
        chains = {number: chain for number in _ASKING if (chain := _chain_of(number)) is not None}
    for chain in chains.values():
        chain.listeners.append(hear)
    try:
        yield
    finally:
        for number, chain in chains.items():
            chain.listeners.remove(hear)
            present: Any = signal.getsignal(number)
            if not chain.listeners and present is chain:
                signal.signal(number, chain.theirs)


class _Chain:
    """Our handler of one signal, one for all that listen: listeners that take turns make it no longer.

    A handler that was set after it may call it, and be restored, after the last listener has left.
    """

    def __init__(self, theirs: Callable[[int, FrameType | None], Any]) -> None:
        self.theirs, self.listeners = theirs, list[Callable[[], None]]()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for hear in tuple(self.listeners):
            hear()
        self.theirs(number, frame)


def _chain_of(number: signal.Signals) -> _Chain | None:
    """Return our handler of the signal, set unless it stands already; None if the process has none of its own."""
    present: Any = signal.getsignal(number)
    if isinstance(present, _Chain):
        return present
    if not callable(present) or present is signal.default_int_handler:
        return None
    chain = _Chain(present)
    signal.signal(number, chain)
    return chain
