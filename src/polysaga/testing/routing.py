"""Check where reads went, and simulate a lagging replica for a database that has none.

async with simulated_lag(orders):              # readers see the database as it is now, until the block ends,
    await client.post("/orders", json=...)     # unless their scope has written since
    assert (await client.get("/orders")).json() == ...
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from polysaga.asgi import ROUTE
from polysaga.clock import Clock
from polysaga.databases import SqlDatabase, SqlNode
from polysaga.databases.handles import Wish, sql_session
from polysaga.databases.positions import ClusterTime
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
    block, and `strong` readers, see everything. A client's next request does not see the writes of its last one:
    bookmarks need real replicas.
    """
    node = database.primary
    engine = create_async_engine(
        node.dialect.address(node.url),
        connect_args=node.dialect.options(node.url),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    async with engine.connect() as connection:
        for statement in _BEGIN[node.dialect.name]:
            await connection.exec_driver_sql(statement)
        database.attach((node,), _StandingStill(node, connection))
        try:
            yield
        finally:
            database.attach((node,))
            await connection.exec_driver_sql("ROLLBACK")
    await engine.dispose()


_BEGIN: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT 1"),
    "mysql": (
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    "sqlite": ("BEGIN", "SELECT count(*) FROM sqlite_master"),
}


class _StandingStill:
    def __init__(self, node: SqlNode, connection: Any) -> None:
        self._node, self._connection, self._written = node, connection, 0

    def reader(self, wish: Wish) -> AbstractAsyncContextManager[AsyncSession]:
        scope = current()
        wrote = scope is not None and self._node.database in {*scope.written, *scope.required}
        asked = wish.consistency or (scope.consistency if scope is not None else None) or "session"
        if asked == "strong" or (asked == "session" and wrote):
            return sql_session(self._node, read_only=True, snapshot=wish.snapshot)
        return self._old()

    @asynccontextmanager
    async def _old(self) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(self._connection, expire_on_commit=False) as session:
            yield session

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
