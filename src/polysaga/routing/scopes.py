"""Scope: what one request, job or message must not miss. One mutable object, shared by the tasks it starts.

A commit marks its database as *written*; where the primary stands is asked for only when somebody needs to know,
the next reader or the response, so that concurrent commits share one question and a commit that nobody follows
up costs nothing. What was asked for after the commit is past it, whoever committed.

A scope reads each database from one node while that is fit, so its reads never go back in time.

Code outside of any scope gets one of its own with its first commit, for the task that made it and those it starts
then; it pins no node, for nobody knows when it ends.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from polysaga.clock import Clock
from polysaga.databases.handles import Consistency
from polysaga.databases.positions import Position


class Source(Protocol):
    """What tells where a database's primary stands now."""

    async def position(self) -> Position | None:
        """Return a position past all that was committed before the call; None if nobody can tell."""


class Scope:
    """What the reads of one unit of work must see, and where they went."""

    def __init__(
        self,
        bookmark: Mapping[str, Position] | None = None,
        *,
        clock: Clock,
        consistency: Consistency | None = None,
        pins: bool = True,
    ) -> None:
        self.received: Mapping[str, Position] = dict(bookmark or {})
        self.required = dict(self.received)
        self._clock, self._began = clock, clock.monotonic()
        self._raised: dict[str, float] = {}
        self.consistency = consistency  # for readers that do not say
        self.pinned: dict[str, int] | None = {} if pins else None
        self.written: dict[str, Source] = {}
        self.unsure: set[str] = set()  # written, and nobody could tell where
        self.answered: dict[str, str] = {}  # database -> node and reason, for people
        self.explains = False

    def wrote(self, database: str, source: Source) -> None:
        """Note that this scope must see what is committed in *database* by now."""
        self.written[database] = source

    def require(self, database: str, position: Position) -> None:
        """Raise what must be seen of *database*; what is known of another cluster by that name is dropped."""
        self._raised[database] = self._clock.monotonic()
        known = self.required.get(database)
        if known is not None and known.comparable(position):
            position = known.merged(position)
        self.required[database] = position

    def known_since(self, database: str) -> float:
        """Return when the scope learnt what it must see of *database*, in seconds on the monotonic clock."""
        return self._raised.get(database, self._began)

    async def changed(self) -> bool:
        """Settle, and tell whether there is anything to see that was not in the bookmark."""
        if self.written:
            await self.settle()
        return self.required != self.received

    async def settle(self, database: str | None = None) -> None:
        """Find out where the primaries stand that this scope wrote to, all of them or that of *database*."""
        names = list(self.written) if database is None else [name for name in self.written if name == database]
        sources = [self.written.pop(name) for name in names]
        positions = await asyncio.gather(*(source.position() for source in sources))
        for name, source, position in zip(names, sources, positions, strict=True):
            if position is None:
                self.unsure.add(name)
                self.written[name] = source  # the next one asks again
            else:
                self.unsure.discard(name)
                self.require(name, position)


_current: ContextVar[Scope | None] = ContextVar("polysaga_scope", default=None)


def current() -> Scope | None:
    """Return the scope that this task works in."""
    return _current.get()


def current_or_own(clock: Clock) -> Scope:
    """Return the scope that this task works in; give it one of its own if there is none."""
    scope = _current.get()
    if scope is None:
        scope = Scope(clock=clock, pins=False)
        _current.set(scope)
    return scope


@contextmanager
def entered(scope: Scope) -> Iterator[Scope]:
    """Work in *scope* for the length of the block."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
