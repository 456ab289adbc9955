"""Check where reads went, and simulate a lagging replica for a database that has none.

async with simulated_lag(orders):              # readers see the database as it is now, until the block ends,
    await client.post("/orders", json=...)     # unless their scope has written since
    assert (await client.get("/orders")).json() == ...
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from polysaga.asgi import ROUTE
from polysaga.clock import Clock
from polysaga.databases import SqlDatabase, SqlNode
from polysaga.databases.handles import Wish
from polysaga.databases.lent_sessions import sql_session
from polysaga.databases.positions import ClusterTime
from polysaga.errors import DatabaseUnavailable
from polysaga.routing.guards.constructs import guard
from polysaga.routing.scopes import current, current_or_own

Lend: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncSession]]


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

    On PostgreSQL each reader has a connection of its own. On MySQL, MariaDB and SQLite all share the one that has
    seen the moment. There one reader cannot stream beside another on MySQL and MariaDB, and a reader that is
    cancelled within a statement ends the moment: later ones get `DatabaseUnavailable`.
    """
    node = database.primary
    pool = node.settings.pool
    settings = node.settings.model_copy(
        update={"pool": pool.model_copy(update={"max_overflow": pool.max_overflow + 1})}  # what keeps the moment
    )
    replica = SqlNode(node.database, "replica", node.url.render_as_string(hide_password=False), settings)
    keep = _exported if node.dialect.name == "postgresql" else _shared
    try:
        async with keep(replica) as lend:
            database.attach((node,), _StandingStill(node, lend))
            try:
                yield
            finally:
                database.attach((node,))
    finally:
        await replica.close()


@asynccontextmanager
async def _exported(node: SqlNode) -> AsyncIterator[Lend]:
    """Keep a connection to PostgreSQL that sees what is committed now, and let all sessions begin with that."""
    async with node.snapshots.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        moment = await connection.scalar(text("SELECT pg_export_snapshot()"))
        guard(node)

        @event.listens_for(node.snapshots.sync_engine, "begin")
        def begin(reader: Connection) -> None:
            cursor = reader.connection.cursor()  # a statement of SQLAlchemy's would begin once more
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{moment}'")
            cursor.close()

        yield lambda: sql_session(node, read_only=True, snapshot=True)


@asynccontextmanager
async def _shared(node: SqlNode) -> AsyncIterator[Lend]:
    """Keep a connection that sees what is committed now, and lend it to all sessions, whatever they do."""
    async with node.reader.connect() as connection:
        for statement in _BEGIN[node.dialect.name]:
            await connection.exec_driver_sql(statement)
        guard(node)  # only now: it refuses BEGIN
        sqlalchemys: Any = node.reader.sync_engine.dialect
        sqlalchemys.do_commit = sqlalchemys.do_rollback = _go_on
        held: Any = connection.sync_connection

        def lend() -> AbstractAsyncContextManager[AsyncSession]:
            if not held.connection.is_valid:
                lost = "the connection that shows its readers one moment was lost; begin `simulated_lag` anew"
                raise DatabaseUnavailable(node.database, node.name, lost)
            # What the session ends is its own.
            bind = AsyncConnection(node.reader, Connection(held.engine, held.connection))
            return sql_session(node, read_only=True, bind=bind)

        try:
            yield lend
        finally:
            await connection.invalidate()  # the transaction ends with its connection


def _go_on(lent: PoolProxiedConnection) -> None:
    """Keep the snapshot at the end of a session."""


_BEGIN: Mapping[str, tuple[str, ...]] = {
    "mysql": (
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    "sqlite": ("BEGIN", "SELECT count(*) FROM sqlite_master"),
}


class _StandingStill:
    def __init__(self, node: SqlNode, lend: Lend) -> None:
        self._node, self._lend, self._written = node, lend, 0

    def reader(self, wish: Wish) -> AbstractAsyncContextManager[AsyncSession]:
        scope = current()
        wrote = scope is not None and self._node.database in {*scope.written, *scope.required}
        asked = wish.consistency or (scope.consistency if scope is not None else None) or "session"
        if asked == "strong" or (asked == "session" and wrote):
            return sql_session(self._node, read_only=True, snapshot=wish.snapshot)
        return self._lend()

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
