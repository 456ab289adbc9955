"""The sessions of a database with replicas: bound to one node from their first statement to their end.

A reader whose very first statement finds its node gone has read nothing yet: it moves to another node, once. Any
later failure is the caller's to hear of, for what was read before belongs to the node that is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from polysaga.databases.faults import Fault
from polysaga.databases.handles import Wish, as_ours, sql_session
from polysaga.databases.pools import SqlNode
from polysaga.errors import DatabaseUnavailable, NoPrimary, ReadOnlyNode
from polysaga.routing.policy import Choice, Reason
from polysaga.routing.router import Router
from polysaga.routing.scopes import Scope, current, current_or_own

_READING = "polysaga.reading"
_GONE = {Fault.DISCONNECTED, Fault.UNREACHABLE}


class SqlRoutes:
    """Lends sessions on the nodes that the router chooses; the `Routes` of a handle."""

    def __init__(self, router: Router) -> None:
        self.router = router

    @asynccontextmanager
    async def reader(self, wish: Wish) -> AsyncIterator[AsyncSession]:
        """See `Database.reader`."""
        router, scope = self.router, current()
        choice = router.choose(scope, wish) or await router.search(scope, wish)
        reading = _Reading(router, scope, wish, choice)
        reading.begin()
        try:
            session = AsyncSession(
                reading.engine, sync_session_class=_Movable, expire_on_commit=False, info={_READING: reading}
            )
            try:
                yield session
            except BaseException:
                # Shielded: a cancelled reader must give its connection back all the same.
                await asyncio.shield(asyncio.ensure_future(session.close()))
                raise
            await session.close()  # nothing to commit: there is no transaction, or one that only reads
        except (DBAPIError, PoolTimeout) as error:
            reading.blame(error)
            ours = as_ours(reading.node, error)
            if ours is None:
                raise
            raise ours from error
        except DatabaseUnavailable as error:
            reading.blame(error)
            raise
        finally:
            reading.end()

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[AsyncSession]:
        """See `Database.writer`."""
        router = self.router
        if router.topology.primary is None:
            raise NoPrimary(router.name)
        try:
            async with sql_session(router.primary, read_only=False) as session:
                yield session
        except ReadOnlyNode as error:
            router.monitor.suspect()
            raise DatabaseUnavailable(router.name, error.node, "it is not the primary any more") from error
        except DatabaseUnavailable:
            router.monitor.suspect()
            self.wrote()  # the reply to COMMIT may be all that was lost
            raise
        self.wrote()

    def wrote(self) -> None:
        """See `Database.wrote`."""
        current_or_own(self.router.clock).wrote(self.router.name, self.router.capture)


class _Reading:
    """One reader session and the node it is on."""

    def __init__(self, router: Router, scope: Scope | None, wish: Wish, choice: Choice) -> None:
        self._router, self._scope, self._wish, self.choice = router, scope, wish, choice
        self.node: SqlNode = router.node(choice)
        self._blamed = self._counted = False

    @property
    def engine(self) -> Any:
        return self.node.snapshots if self._wish.snapshot else self.node.reader

    def begin(self) -> None:
        load = self._router.loads[self.choice.index]
        load.sessions += 1
        self._counted = True
        load.breaker.begin()
        self._router.note(self._scope, self.choice)

    def end(self) -> None:
        if not self._counted:
            return  # it had left its node, and found no other
        self._counted = False
        load = self._router.loads[self.choice.index]
        load.sessions -= 1
        if not self._blamed and (load.breaker.opened or load.breaker.seen):
            load.breaker.succeeded()
        if self.choice.reason is Reason.NO_REPLICA:
            self._router.limiter.release()

    def blame(self, error: Exception) -> bool:
        """Tell whether *error* is the node's; it then counts against it."""
        if self.node.dialect.fault(error) not in _GONE:
            return False
        if not self._blamed:
            self._router.failed(self.choice.index)
        self._blamed = True
        return True

    async def move(self) -> Any:
        """Return the engine of another node."""
        self.end()
        self._blamed = False
        left = self.choice.index
        if self._scope is not None and self._scope.pinned is not None:
            self._scope.pinned.pop(self._router.name, None)
        router, wish = self._router, self._wish
        choice = router.choose(self._scope, wish)
        if choice is None or choice.index == left:
            choice = await router.search(self._scope, wish)
        self.choice, self.node = choice, router.node(choice)
        self.begin()
        return self.engine


class _Movable(Session):
    """A session that goes to another node if its first statement finds the first one gone."""

    def execute(self, *given: Any, **named: Any) -> Any:
        return self._first(super().execute, given, named)

    def scalar(self, *given: Any, **named: Any) -> Any:
        return self._first(super().scalar, given, named)

    def scalars(self, *given: Any, **named: Any) -> Any:
        return self._first(super().scalars, given, named)

    def _first(self, run: Callable[..., Any], given: Any, named: Any) -> Any:
        reading: _Reading | None = self.info.pop(_READING, None)
        if reading is None:
            return run(*given, **named)
        try:
            return run(*given, **named)
        except (DBAPIError, DatabaseUnavailable) as error:
            if not reading.blame(error):
                raise
        self.rollback()
        self.bind = await_only(reading.move()).sync_engine
        return run(*given, **named)
