"""Scope: what one request, job or message must not miss. One mutable object, shared by the tasks it starts.

A commit marks its database as *written*; where the primary stands is asked for only when somebody needs to know,
the next reader or the response, so that concurrent commits share one question and a commit that nobody follows
up costs nothing. What was asked for after the commit is past it, whoever committed.

What a scope wrote stays *written* until the answer is there: whoever reads meanwhile asks too, and whoever is
cancelled while he waits leaves nothing forgotten.

A scope reads each database from one node while that is fit, so its reads never go back in time.

Code outside of any scope gets one of its own with its first commit, for the task that made it and those it starts
then; it pins no node, for nobody knows when it ends.
"""

import asyncio
from collections import Counter
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
        self.written: dict[str, Source] = {}  # committed there, and where is not known yet
        self.acknowledged: set[str] = set()  # written, and somebody was told so
        self._told_by: dict[str, Source] = {}  # who can tell what its client must be told
        self._commits = Counter[str]()
        self.unsure: set[str] = set()  # written, and nobody could tell where
        self.answered: dict[str, str] = {}  # database -> node and reason, for people
        self.explains = False

    def wrote(self, database: str, source: Source, *, acknowledged: bool = True) -> None:
        """Note that this scope must see what is committed in *database* by now.

        A commit that was not acknowledged may have happened: the scope looks for it, its client is not told.
        """
        if acknowledged:
            self.acknowledged.add(database)
        self._commits[database] += 1
        self.written[database] = self._told_by[database] = source

    def commits(self, database: str) -> int:
        """Return how often this scope has written to *database*."""
        return self._commits[database]

    def correct(self, database: str, position: Position, source: Source) -> None:
        """Lower what must be seen of *database*: no server has what the bookmark named."""
        self.required[database] = position
        self._told_by[database] = source

    def require(self, database: str, position: Position, source: Source | None = None) -> None:
        """Raise what must be seen of *database*; what is known of another cluster by that name is dropped.

        *source* is given for a commit of this scope's own, whose place came with its reply.
        """
        if source is not None:
            self._told_by[database] = source
        self._raised[database] = self._clock.monotonic()
        known = self.required.get(database)
        if known is not None and known.comparable(position):
            position = known.merged(position)
        self.required[database] = position

    def known_since(self, database: str) -> float:
        """Return when the scope learnt what it must see of *database*, in seconds on the monotonic clock."""
        return self._raised.get(database, self._began)

    async def news(self) -> list[str]:
        """Return the databases of which the client must see more than its bookmark says, or of which nobody knows.

        Where they stand is asked now, also if it was asked before: another request of the same client may have
        been answered since, and what is told last is what the client keeps.
        """
        self.written |= self._told_by
        await self.settle()
        changed = (name for name, place in self.required.items() if self.received.get(name) != place)
        return list(dict.fromkeys((*changed, *self.unsure)))

    async def settle(self, database: str | None = None) -> None:
        """Find out where the primaries stand that this scope wrote to, all of them or that of *database*."""
        names = [name for name in self.written if database in {None, name}]
        await asyncio.gather(*(self._settle(name, self.written[name]) for name in names))

    async def _settle(self, database: str, source: Source) -> None:
        commits = self._commits[database]
        position = await source.position()
        if position is None:
            self.unsure.add(database)  # the next one asks again
            return
        self.require(database, position)
        self.unsure.discard(database)
        if self._commits[database] == commits:
            self.written.pop(database, None)


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
