"""Whether a database answers now, in one word."""

from typing import Literal, TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from polysaga.databases import AnyHandle
from polysaga.errors import ConfigurationError, DatabaseUnavailable

State: TypeAlias = Literal["ok", "busy", "unreachable"]


async def state_of(handle: AnyHandle) -> State:
    """Return whether the primary of *handle* answers; busy: no connection became free in time."""
    try:
        await handle.primary.ping()
    except (DatabaseUnavailable, ConfigurationError):
        return "unreachable"
    except SQLAlchemyError:  # the pool's timeout among them
        return "busy"
    return "ok"
