"""Make PyMongo's wait for a free connection safe to cancel on Python 3.11.

PyMongo waits for its pool and its topology by `asyncio.wait_for(condition.wait(), timeout)`. Before Python 3.12
`wait_for` runs its argument in a task of its own. The outer task may be cancelled while the inner one takes the
lock back, for instance because the wait has just timed out. The inner task then ends with the lock taken: the
client never lends a connection again, and a task that waits for the lock cannot be cancelled. `asyncio.timeout`
waits in the task that releases the lock. See `docs/decisions/0008-pymongo-waits-in-the-callers-task.md`.
"""

import asyncio
import inspect
import sys
from typing import Any

from polysaga.loading import load_module

_TAKES = ["condition", "timeout"]


def make_safe() -> None:
    """Make all clients of this process wait so that no cancellation leaves a lock taken; harmless if repeated.

    A PyMongo that waits in an unknown way or place is left as it is.
    """
    if sys.version_info >= (3, 12):
        return
    for name in ("pymongo.asynchronous.pool", "pymongo.asynchronous.topology"):
        try:
            module: Any = load_module(name)
        except ModuleNotFoundError:
            continue
        theirs = getattr(module, "_async_cond_wait", None)
        if theirs is not None and list(inspect.signature(theirs).parameters) == _TAKES:
            module._async_cond_wait = _wait  # noqa: SLF001 - PyMongo offers no other place


async def _wait(condition: Any, timeout: float | None) -> bool:
    """Return whether *condition* was notified within *timeout* seconds; its lock is held again in any case."""
    try:
        async with asyncio.timeout(timeout):
            await condition.wait()
    except TimeoutError:
        return False
    return True
