"""Awaiting code of users: whatever a step raises, its failure comes out as an `Exception`.

A cancellation, `SystemExit` and `KeyboardInterrupt` are no failures of the step and pass. Anything else that is no
`Exception` (GeneratorExit, a group with a cancellation in it, pytest's `fail` and `skip`) would pass every
`except Exception` and end the saga's owner instead of the step.
"""

import asyncio
import traceback
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
_PASS = (asyncio.CancelledError, SystemExit, KeyboardInterrupt)


async def awaited(call: Awaitable[T]) -> T:
    """Return the result of a user's *call*; raise `RuntimeError` in place of an error that is no `Exception`."""
    try:
        return await call
    except (Exception, *_PASS):
        raise
    except BaseException as error:  # border: a step is the user's code and may raise anything
        if _closes(error):
            raise
        raise _as_exception(error) from error


def _closes(error: BaseException) -> bool:
    """Return whether the awaiting coroutine itself is being closed, so that no code below raised the error."""
    trace = error.__traceback__
    return isinstance(error, GeneratorExit) and trace is not None and trace.tb_next is None


def _as_exception(error: BaseException) -> BaseException:
    if isinstance(error, BaseExceptionGroup):
        ends, _ = error.split((SystemExit, KeyboardInterrupt))
        if ends is not None:
            return _first(ends)  # the program must end, as it would without the group
        _, others = error.split(asyncio.CancelledError)
        if others is None:
            return asyncio.CancelledError()
    return RuntimeError("a step raised " + "".join(traceback.format_exception_only(error)).strip())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
