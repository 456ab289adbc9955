"""Awaiting what users write: a step may raise anything, and every failure of it comes out as an `Exception`.

Three things are no failures of the step and pass: a cancellation, `SystemExit` and `KeyboardInterrupt`. All else
that is no `Exception` (GeneratorExit, a group with a cancellation in it, pytest's `fail` and `skip`) would pass
every `except Exception` on its way and end the saga's owner instead of the step.
"""

import asyncio
import traceback
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
_PASS = (asyncio.CancelledError, SystemExit, KeyboardInterrupt)


async def awaited(call: Awaitable[T]) -> T:
    """Return the result of a user's *call*; raise `RuntimeError` for an error of its that is no `Exception`."""
    try:
        return await call
    except (Exception, *_PASS):
        raise
    except BaseException as error:  # border: a step is the user's code and may raise anything
        if _closes(error):
            raise
        raise _as_exception(error) from error


def _closes(error: BaseException) -> bool:
    """Tell whether the awaiting coroutine itself is being closed: then nothing below it has raised the error."""
    trace = error.__traceback__
    return isinstance(error, GeneratorExit) and trace is not None and trace.tb_next is None


def _as_exception(error: BaseException) -> BaseException:
    if isinstance(error, BaseExceptionGroup):
        ends, _ = error.split((SystemExit, KeyboardInterrupt))
        if ends is not None:
            return _first(ends)  # the program is to end, as without the group
        _, others = error.split(asyncio.CancelledError)
        if others is None:
            return asyncio.CancelledError()
    return RuntimeError("a step raised " + "".join(traceback.format_exception_only(error)).strip())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
