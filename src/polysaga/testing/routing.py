"""Check where reads went, and simulate a lagging replica for a database that has none.

async with simulated_lag(orders):              # readers see the database as it is now, until the block ends,
    await client.post("/orders", json=...)     # unless their scope has written since
    assert (await client.get("/orders")).json() == ...
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from polysaga.asgi import ROUTE
from polysaga.clock import Clock
from polysaga.databases import SqlDatabase, SqlNode
from polysaga.databases.handles import Wish, sql_session
from polysaga.databases.positions import ClusterTime
from polysaga.routing.guards.constructs import guard
from polysaga.routing.scopes import current, current_or_own


class HasHeaders(Protocol):
    """A response of any HTTP client."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers by name."""


def assert_routed(answer: HasHeaders, **expected: str) -> None:
    """Fail unless *answer* says that each database was read from the *expected* role: `primary` or `replica`.

    The application must run with `bookmarks.explain`.
    """
    told = answer.headers.get(ROUTE, "")
    went = dict(part.split(";")[0].split("=", 1) for part in told.split(", ") if part)
    for database, role in expected.items():
        found = went.get(database, "nowhere")
        assert found == role or found.startswith(f"{role}-"), (
            f"'{database}' was read from {found}, not from a {role}; the response says: {told or 'nothing'}"
        )


@asynccontextmanager
async def simulated_lag(database: SqlDatabase) -> AsyncIterator[None]:
    """Make *database*, which has no replicas, behave as if its readers used a replica that stands still.

    Inside the block readers see only what was committed before it. Readers whose scope has written inside the
    block, and `strong` readers, see everything. Readers refuse what readers of a replica refuse: `WriteOnReader`,
    and `SessionOver` after their block. A client's next request does not see the writes of its last one: bookmarks
    need real replicas.
    """
    node = database.primary
    replica = SqlNode(node.database, "replica", node.url.render_as_string(hide_password=False), node.settings)
    try:
        async with _snapshot(replica) as connection:
            database.attach((node,), _StandingStill(node, replica, connection))
            try:
                yield
            finally:
                database.attach((node,))
    finally:
        await replica.close()


@asynccontextmanager
async def _snapshot(node: SqlNode) -> AsyncIterator[AsyncConnection]:
    """Lend a connection for readers of *node* that sees what is committed now, whatever its sessions do."""
    async with node.reader.connect() as connection:
        for statement in _BEGIN[node.dialect.name]:
            await connection.exec_driver_sql(statement)
        guard(node)  # only now: it refuses BEGIN
        sqlalchemys: Any = node.reader.sync_engine.dialect
        sqlalchemys.do_commit = _go_on
        sqlalchemys.do_rollback = _go_back if node.dialect.name == "postgresql" else _go_on
        try:
            yield connection
        finally:
            await connection.invalidate()  # the transaction ends with its connection


def _go_on(lent: PoolProxiedConnection) -> None:
    """Keep the snapshot at the end of a session."""


def _go_back(lent: PoolProxiedConnection) -> None:
    """Keep the snapshot although a statement has failed: PostgreSQL would refuse all later ones."""
    cursor = lent.cursor()
    cursor.execute(f"ROLLBACK TO {_BEGUN}")
    cursor.close()


_BEGUN = "polysaga_lag"
_BEGIN: Mapping[str, tuple[str, ...]] = {
    "postgresql": (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        "SELECT 1",
        f"SAVEPOINT {_BEGUN}",
    ),
    "mysql": (
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    "sqlite": ("BEGIN", "SELECT count(*) FROM sqlite_master"),
}


class _StandingStill:
    def __init__(self, node: SqlNode, replica: SqlNode, connection: AsyncConnection) -> None:
        self._node, self._replica, self._connection, self._written = node, replica, connection, 0

    def reader(self, wish: Wish) -> AbstractAsyncContextManager[AsyncSession]:
        scope = current()
        wrote = scope is not None and self._node.database in {*scope.written, *scope.required}
        asked = wish.consistency or (scope.consistency if scope is not None else None) or "session"
        if asked == "strong" or (asked == "session" and wrote):
            return sql_session(self._node, read_only=True, snapshot=wish.snapshot)
        return sql_session(self._replica, read_only=True, bind=self._own_connection())

    def _own_connection(self) -> AsyncConnection:
        """Return a connection in the one snapshot for one session: what the session ends is its own."""
        held: Any = self._connection.sync_connection
        return AsyncConnection(self._replica.reader, Connection(held.engine, held.connection))

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[AsyncSession]:
        async with sql_session(self._node, read_only=False) as session:
            yield session
        self.wrote()

    def wrote(self) -> None:
        current_or_own(Clock()).wrote(self._node.database, self)

    async def position(self) -> ClusterTime:
        self._written += 1
        return ClusterTime(self._written, 0)
