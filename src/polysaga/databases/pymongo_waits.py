"""PyMongo's waiting for a free connection, made safe to cancel on Python 3.11.

PyMongo waits for its pool and its topology by `asyncio.wait_for(condition.wait(), timeout)`. Before Python 3.12
`wait_for` runs what it is given in a task of its own. If the outer task is cancelled while the inner one takes
the lock back, for instance because the wait has just timed out, the inner task ends with the lock taken: the
client never lends a connection again, and what waits for that lock cannot be cancelled. `asyncio.timeout` waits in
the task that releases the lock. See `docs/decisions/0008-pymongo-waits-in-the-callers-task.md`.
"""

import asyncio
import inspect
import sys
from typing import Any

from polysaga.loading import load_module

_TAKES = ["condition", "timeout"]


def make_safe() -> None:
    """Have all clients of this process wait so that no cancellation leaves a lock taken; harmless if repeated.

    A PyMongo that waits in another way, or in another place, than those that are known is left as it is.
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
