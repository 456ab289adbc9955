"""MongoDB: the driver knows the members and finds the primary; Polysaga adds what a read must have seen.

Readers prefer secondaries, in a causally consistent session that begins at the scope's operation time: a member
that is behind waits by itself. Writes are majority writes, and the time of the last one is in every reply. So no
reader after a writer has to ask; only the position for the client is asked for (`Scope.news`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from polysaga.clock import Clock
from polysaga.config import ReadSettings
from polysaga.databases.handles import Wish
from polysaga.databases.mongo_node import MongoNode, MongoSession
from polysaga.databases.positions import ClusterTime
from polysaga.routing.scopes import current, current_or_own


class MongoRoutes:
    """Lends sessions on a replica set or a sharded cluster; the `Routes` of a handle."""

    def __init__(self, node: MongoNode, reads: ReadSettings, clock: Clock) -> None:
        self._node, self._reads, self._clock = node, reads, clock

    @asynccontextmanager
    async def reader(self, wish: Wish) -> AsyncIterator[MongoSession]:
        """See `Database.reader`; `max_lag` and `snapshot` are left to the driver."""
        scope, name = current(), self._node.database
        asked = None if scope is None else scope.consistency
        consistency = wish.consistency or asked or self._reads.consistency
        after = None
        if scope is not None and consistency == "session":
            await scope.settle(name)
            required = scope.required.get(name)
            after = required if isinstance(required, ClusterTime) else None
            if name in scope.unsure:
                consistency = "strong"
        if scope is not None and scope.explains:
            where = "primary" if consistency == "strong" else "secondary-preferred"
            scope.answered[name] = f"{where};reason={consistency}"
        secondaries = consistency != "strong"
        async with self._node.session(read_only=True, secondaries=secondaries, after=after) as session:
            yield session

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[MongoSession]:
        """See `Database.writer`."""
        time = None
        try:
            async with self._node.session() as session:
                yield session
                time = session.client_session.operation_time
        finally:
            if time is None:
                self.wrote()
            else:
                scope = current_or_own(self._clock)
                scope.require(self._node.database, ClusterTime(time.time, time.inc), self._node)

    def wrote(self) -> None:
        """See `Database.wrote`."""
        current_or_own(self._clock).wrote(self._node.database, self._node)
