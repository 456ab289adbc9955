"""Scope: what one request, job or message must not miss. One mutable object, shared by the tasks it starts.

A commit marks its database as *written*. The primary's position is asked for only when the next reader or the
response needs it. So concurrent commits share one question, and a commit with no read after it costs nothing. An
answer to a question asked after a commit is past it, whichever session committed.

A database stays *written* until its position is known. Concurrent readers ask too, so a cancelled one loses
nothing.

A scope reads each database from one node while that node is fit, so its reads never go back in time.

Code outside of any scope gets one of its own with its first commit, for the task that committed and those it
starts then. That scope pins no node, because its end is unknown.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from polysaga.clock import Clock
from polysaga.databases.handles import Consistency, check_reads
from polysaga.databases.positions import Position


class Source(Protocol):
    """A source of the current position of a database's primary."""

    async def position(self) -> Position | None:
        """Return a position past all that was committed before the call; None if unknown."""


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
        check_reads(consistency)
        self.received: Mapping[str, Position] = dict(bookmark or {})
        self.required = dict(self.received)
        self._clock, self._began = clock, clock.monotonic()
        self._raised: dict[str, float] = {}
        self.consistency = consistency  # for readers that give none
        self.pinned: dict[str, int] | None = {} if pins else None
        self.written: dict[str, Source] = {}  # committed there, at a position not known yet
        self.acknowledged: set[str] = set()  # written, and the commit was acknowledged
        self._told_by: dict[str, Source] = {}  # sources of the positions that the client must get
        self._commits = Counter[str]()
        self.unsure: set[str] = set()  # written, and the position could not be learnt
        self.answered: dict[str, str] = {}  # database -> node and reason, for people
        self.explains = False

    def wrote(self, database: str, source: Source, *, acknowledged: bool = True) -> None:
        """Note that this scope must see what is committed in *database* by now.

        An unacknowledged commit may have happened: the scope asks for its position, but owes the client none.
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
        """Raise what must be seen of *database*; drop a known position of another cluster by that name.

        *source* is given for a commit of this scope's own if the reply brought the position.
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
        """Return the databases whose required position is not what the client's bookmark says, or is unknown.

        The positions are asked for now, even if they were asked for before: another request of the same client may
        have been answered since, and the client keeps what it receives last.
        """
        self.written |= self._told_by
        await self.settle()
        changed = (name for name, place in self.required.items() if self.received.get(name) != place)
        return list(dict.fromkeys((*changed, *self.unsure)))

    async def settle(self, database: str | None = None) -> None:
        """Learn the positions of the primaries that this scope wrote to: all, or only that of *database*."""
        names = [name for name in self.written if database in {None, name}]
        await asyncio.gather(*(self._settle(name, self.written[name]) for name in names))

    async def _settle(self, database: str, source: Source) -> None:
        commits = self._commits[database]
        position = await source.position()
        if position is None:
            self.unsure.add(database)  # the next reader asks again
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
