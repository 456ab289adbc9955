"""The sessions of a database with replicas: bound to one node from their first statement to their end.

A reader whose very first statement finds its node gone has read nothing yet: it moves to another node, once. A
later failure is raised to the caller: what it has read belongs to the node that is gone. Only at its end, when it
has read all, a node that is gone does not matter any more.

A reader may live on while its scope writes, such as a dependency of a handler that runs a saga. It would not see
the write, so before its next statement it moves to a node that does. A snapshot that has begun stays what it is.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import SessionTransactionOrigin
from sqlalchemy.util import await_only

from polysaga.databases.handles import Wish
from polysaga.databases.lent_sessions import (
    LentSession,
    PatientSession,
    as_ours,
    close_shielded,
    connections_of,
    is_gone,
    sql_session,
    taken_by,
    telling_loss,
)
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import DatabaseUnavailable, NoPrimary
from polysaga.routing.policy import Choice, RouteReason
from polysaga.routing.router import Router
from polysaga.routing.scopes import Scope, current, current_or_own

_READING = "polysaga.reading"


class SqlRoutes:
    """Lends sessions on the nodes that the router chooses; the `Routes` of a handle."""

    def __init__(self, router: Router) -> None:
        self.router = router

    @asynccontextmanager
    async def reader(self, wish: Wish) -> AsyncIterator[AsyncSession]:
        """See `Database.reader`."""
        router, scope = self.router, current()
        choice = router.choose(scope, wish) or await router.search(scope, wish)
        reading = _ReadRoute(router, scope, wish, choice)
        reading.begin()
        try:
            session = PatientSession(
                reading.engine, sync_session_class=_Movable, expire_on_commit=False, info={_READING: reading}
            )
            lent = cast(LentSession, session.sync_session)
            try:
                try:
                    with telling_loss(lent, router.name):
                        yield session
                        if not lent._is_clean():  # noqa: SLF001 - what is public takes ten times as long
                            await session.flush()  # which is refused: a change must not be dropped in silence
                finally:
                    lent.end(router.name)  # before it closes: a task that was left behind must not begin anew then
                await reading.close(session)
            except BaseException:
                await close_shielded(session)
                raise
        except (StatementError, PoolTimeout) as error:
            reading.blame(error)
            ours = as_ours(reading.node, error, read_only=True)
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
        except NoPrimary as error:
            if error.database != router.name:
                raise  # of a writer inside this one's block
            router.monitor.suspect()
            name = router.primary.name
            raise DatabaseUnavailable(router.name, name, "it is not the primary any more") from error
        except DatabaseUnavailable as error:
            if error.database == router.name:
                router.monitor.suspect()
                # Perhaps only the reply to COMMIT was lost.
                current_or_own(router.clock).wrote(router.name, router.capture, acknowledged=False)
            raise
        self.wrote()

    def wrote(self) -> None:
        """See `Database.wrote`."""
        current_or_own(self.router.clock).wrote(self.router.name, self.router.capture)


class _ReadRoute:
    """One reader session and the node it is on."""

    def __init__(self, router: Router, scope: Scope | None, wish: Wish, choice: Choice) -> None:
        self._router, self._scope, self._wish, self.choice = router, scope, wish, choice
        self.node: SqlNode = router.node(choice)
        self._blamed = self._counted = self._read = False
        self._commits = 0 if scope is None else scope.commits(router.name)

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
        if self.choice.reason is RouteReason.NO_REPLICA:
            self._router.limiter.release()

    async def close(self, session: AsyncSession) -> None:
        """Close *session*; as it has read all, a node that is gone does not matter any more."""
        try:
            await session.close()  # nothing to commit: there is no transaction, or one that only reads
        except DBAPIError as error:
            if not self.blame(error):
                raise
            await close_shielded(session)

    def blame(self, error: Exception) -> bool:
        """Return whether *error* is the node's; if so, it counts against the node."""
        if not is_gone(self.node, error):
            return False
        if not self._blamed:
            self._router.failed(self.choice.index)
        self._blamed = True
        return True

    def reads(self) -> bool:
        """Note that a statement follows; return whether it is the first."""
        first, self._read = not self._read, True
        return first

    @property
    def is_snapshot(self) -> bool:
        return self._wish.snapshot

    def overtaken(self) -> bool:
        """Return whether the scope has written since the node was chosen: the node may lack the write."""
        scope = self._scope = self._scope or current()
        if scope is None or scope.commits(self._router.name) == self._commits:
            return False
        asked = self._wish.consistency or scope.consistency or self._router.reads.consistency
        return asked == "session" and self.choice.index != self._router.topology.primary

    async def move(self) -> Any:
        """Move to a node that has all that the scope must see, and not to one that failed; return its engine."""
        self.end()
        left = self.choice.index if self._blamed else None
        self._blamed = False
        if self._scope is not None:
            self._commits = self._scope.commits(self._router.name)
        if left is not None and self._scope is not None and self._scope.pinned is not None:
            self._scope.pinned.pop(self._router.name, None)
        router, wish = self._router, self._wish
        choice = router.choose(self._scope, wish, left) or await router.search(self._scope, wish, left)
        self.choice, self.node = choice, router.node(choice)
        self.begin()
        return self.engine


class _Movable(LentSession):
    """A session that moves if its node is gone at the first statement, or may lack a write of its scope.

    A transaction that its user has begun (`session.begin()`) is the user's to end: the session moves within it.
    The connection to the former node stays the transaction's, unused, until its end.
    """

    def connection(self, *given: Any, **named: Any) -> Any:
        return self._first(super().connection, given, named)

    def execute(self, *given: Any, **named: Any) -> Any:
        return self._first(super().execute, given, named)

    def scalar(self, *given: Any, **named: Any) -> Any:
        return self._first(super().scalar, given, named)

    def scalars(self, *given: Any, **named: Any) -> Any:
        return self._first(super().scalars, given, named)

    def _first(self, run: Callable[..., Any], given: Any, named: Any) -> Any:
        self.refuse_if_over()
        reading: _ReadRoute = self.info[_READING]
        if reading.overtaken() and not (reading.is_snapshot and taken_by(self)):  # one that has begun stays
            if not self._is_begun():
                self.commit()  # gives the connection back; nothing is to commit, and what was read stays usable
            self.bind = await_only(reading.move()).sync_engine
        if not reading.reads():
            return run(*given, **named)
        try:
            return run(*given, **named)
        except (StatementError, DatabaseUnavailable) as error:
            if not reading.blame(error) or self.in_nested_transaction():
                raise
        if self._is_begun():
            self._part_with_connections()
        else:
            self.rollback()
        self.bind = await_only(reading.move()).sync_engine
        return run(*given, **named)

    def _is_begun(self) -> bool:
        transaction = self.get_transaction()
        begun = transaction is not None and transaction.origin is not SessionTransactionOrigin.AUTOBEGIN
        return begun or self.in_nested_transaction()

    def _part_with_connections(self) -> None:
        """Give back the broken connection of a transaction that goes on: at its end it could not be ended."""
        for connection in connections_of(self):
            connection.close()
        taken_by(self).clear()
