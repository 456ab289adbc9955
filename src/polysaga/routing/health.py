"""Whether databases answer now, each in one word."""

import asyncio
from collections.abc import Iterable
from typing import Literal, TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from polysaga.databases import AnyHandle
from polysaga.errors import ConfigurationError, DatabaseUnavailable

State: TypeAlias = Literal["ok", "busy", "unreachable", "closed"]


async def state_of(handle: AnyHandle) -> State:
    """Return whether the primary of *handle* answers.

    Busy: no connection became free in time. Closed: the program has not opened it, so no server was asked.
    """
    if not handle.nodes:
        return "closed"
    try:
        await handle.primary.ping()
    except (DatabaseUnavailable, ConfigurationError):
        return "unreachable"
    except SQLAlchemyError:  # the pool's timeout among them
        return "busy"
    return "ok"


async def states_of(handles: Iterable[AnyHandle]) -> dict[str, State]:
    """Return the state of each database by its name; all are asked at once."""
    asked = tuple(handles)
    states = await asyncio.gather(*map(state_of, asked))
    return {handle.name: state for handle, state in zip(asked, states, strict=True)}
