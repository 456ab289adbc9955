"""The one connection that writes to a SQLite file: a step that holds it and waits for it waits for itself.

A step's transaction holds the file until the step ends. Nothing that the step awaits meanwhile can have it:
neither another writer nor the start of another saga. Such a wait is refused at once. Otherwise it would end after
seconds, as if others were slow.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from polysaga.databases.sql_node import SqlNode
from polysaga.errors import PoolExhausted, StepMisused

# What helps a caller that waits for the connection in vain; a larger pool has no second one.
_ONE_WRITER = "SQLite has one writer: open no session inside another, and hold sessions for a shorter time"


@dataclass(slots=True)
class _FileHold:
    """One step that holds a file; `lasts` turns False at its end, for tasks that it leaves behind."""

    file: str
    lasts: bool = True


_holds: ContextVar[tuple[_FileHold, ...]] = ContextVar("polysaga_single_writer", default=())


def file_of(node: SqlNode) -> str | None:
    """Return the file that has one writer; None for servers, which have many."""
    return os.path.realpath(node.url.database or "") if node.dialect.single_writer else None


def exhausted(database: str, connections: int, waited: float, *, one_writer: bool) -> PoolExhausted:
    """Return the error for a caller that *waited* seconds for one of *connections*, or for the *one_writer*."""
    if one_writer:
        return PoolExhausted(database, 1, waited, _ONE_WRITER)
    return PoolExhausted(database, connections, waited)


@contextmanager
def holding(file: str) -> Iterator[None]:
    """Hold *file* for the length of a step."""
    hold = _FileHold(file)
    token = _holds.set((*_holds.get(), hold))
    try:
        yield
    finally:
        hold.lasts = False
        _holds.reset(token)


def refuse_if_held(node: object, what: str, remedy: str) -> None:
    """Raise `StepMisused` if the step around this call holds the file of *node*: *what* would wait for its end."""
    holds = _holds.get()
    if not holds or not isinstance(node, SqlNode):
        return
    file = file_of(node)
    if any(hold.lasts and hold.file == file for hold in holds):
        raise StepMisused(
            f"a step {what} on the SQLite file of database '{node.database}', which has one writer: the step "
            f"itself, until it ends; {remedy}"
        )
