"""What routing sessions of other libraries get wrong, each shown right on a real primary with two replicas."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from psycopg import sql
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Scope, SqlDatabase
from polysaga.clock import Clock
from polysaga.config import parse_settings
from polysaga.databases.handles import Wish
from polysaga.errors import DatabaseUnavailable, NoPrimary, PoolExhausted, ReadOnlyNode, WriteOnReader
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.notes import until_replicas_are_known
from tests.fixtures.servers import PostgresCluster

pytestmark = LEAVES_BEHIND

PORT = text("SELECT inet_server_port()")
VALUE = text("SELECT value FROM notes WHERE id = 1")
SET = text("UPDATE notes SET value = value + 1 WHERE id = 1")


async def _by_statement(db: AsyncSession, question: TextClause) -> Any:
    return await db.scalar(question)


async def _by_connection(db: AsyncSession, question: TextClause) -> Any:
    return (await (await db.connection()).execute(question)).scalar()


async def _by_stream(db: AsyncSession, question: TextClause) -> Any:
    return (await (await db.stream(question)).one())[0]


async def _by_query(db: AsyncSession, question: TextClause) -> Any:
    return await db.run_sync(lambda session: session.execute(question).scalar())


async def _in_a_transaction(db: AsyncSession, question: TextClause) -> Any:
    async with db.begin():
        return await db.scalar(question)


Look: TypeAlias = Callable[[AsyncSession, TextClause], Awaitable[Any]]
WAYS_TO_READ: list[Look] = [_by_statement, _by_connection, _by_stream, _by_query, _in_a_transaction]


class Two:
    """Two databases on the same servers."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.orders, self.points = SqlDatabase("orders"), SqlDatabase("points")
        self.databases = Databases(self.orders, self.points)
        self.primary = cluster.primary.port
        self.replicas = {replica.port for replica in cluster.replicas}

    async def caught_up(self, scope: Scope) -> None:
        """Return when a replica of `orders` has all that *scope* must see."""
        async with asyncio.timeout(30):
            while await self.port() == self.primary:
                await self.databases.routers["orders"].monitor.news(1.0)
                scope.pinned = {}

    async def port(self, database: SqlDatabase | None = None, **wish: str) -> int:
        """Return the port of the server that answers a read."""
        async with (database or self.orders).reader(**wish) as db:  # type: ignore[arg-type]
            found: int = (await db.execute(PORT)).scalar_one()
            return found

    async def write(self) -> None:
        async with self.orders.writer() as db:
            await db.execute(SET)


@pytest.fixture
async def two(postgres_cluster: PostgresCluster) -> AsyncIterator[Two]:
    name = f"faults_{time.monotonic_ns()}"
    postgres_cluster.primary.create_database(name)
    postgres_cluster.catch_up()
    primary, *replicas = postgres_cluster.urls(name)
    one = {"url": primary, "replicas": replicas, "reads": {"wait": 0.0}}
    program = Two(postgres_cluster)
    async with program.databases.open(parse_settings({"databases": {"orders": one, "points": one}})):
        async with program.orders.writer() as db:
            await db.execute(text("CREATE TABLE notes (id INT PRIMARY KEY, value INT NOT NULL)"))
            await db.execute(text("CREATE SEQUENCE numbers"))
            await db.execute(text("INSERT INTO notes VALUES (1, 0)"))
        postgres_cluster.catch_up()
        for router in program.databases.routers.values():
            await until_replicas_are_known(router)
        yield program


@asynccontextmanager
async def paused(cluster: PostgresCluster) -> AsyncIterator[None]:
    for replica in cluster.replicas:
        await asyncio.to_thread(replica.pause)
    yield


async def test_all_statements_of_a_session_go_to_one_node_over_one_connection(two: Two) -> None:
    with two.databases.scope():
        async with two.orders.reader() as db:
            backend = text("SELECT inet_server_port(), pg_backend_pid()")
            answers = {tuple((await db.execute(backend)).one()) for _ in range(4)}
    assert len(answers) == 1


async def test_all_readers_of_a_scope_go_to_one_node(two: Two) -> None:
    for _ in range(5):
        with two.databases.scope() as scope:
            await two.caught_up(scope)
            assert len({await two.port() for _ in range(4)}) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO notes VALUES (2, 0)",
        "WITH made AS (INSERT INTO notes VALUES (2, 0) RETURNING id) SELECT id FROM made",
        "SELECT id FROM (SELECT id FROM notes FOR UPDATE) AS locked",
        "SELECT nextval('numbers')",
        "SELECT pg_advisory_lock(1)",
    ],
)
async def test_what_is_no_plain_read_is_refused_and_goes_nowhere(two: Two, statement: str) -> None:
    with pytest.raises(WriteOnReader):
        async with two.orders.reader() as db:
            await db.execute(text(statement))
    async with two.orders.writer() as db:
        assert (await db.execute(text("SELECT count(*) FROM notes"))).scalar() == 1


async def test_the_server_refuses_too_what_no_guard_can_see(two: Two) -> None:
    two.databases.routers["orders"].nodes[1].on_reader(lambda engine: None)
    async with two.orders.writer() as db:
        await db.execute(
            text(
                "CREATE FUNCTION sneak() RETURNS int LANGUAGE sql AS "
                "'INSERT INTO notes VALUES (3, 0) RETURNING id'"
            )
        )
    with two.databases.scope() as scope:
        await two.caught_up(scope)
        for consistency in ("session", "strong"):
            with pytest.raises(ReadOnlyNode):
                async with two.orders.reader(consistency=consistency) as db:  # type: ignore[arg-type]
                    await db.execute(text("SELECT sneak()"))


async def test_what_was_committed_is_read_back(two: Two, postgres_cluster: PostgresCluster) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            await two.write()
            async with two.orders.reader() as db:
                assert (await db.execute(VALUE)).scalar() == 1


async def test_it_is_read_back_also_outside_of_any_scope(two: Two, postgres_cluster: PostgresCluster) -> None:
    async with paused(postgres_cluster):
        await two.write()
        async with two.orders.reader() as db:
            assert (await db.execute(VALUE)).scalar() == 1


async def test_a_position_asked_before_the_commit_is_not_reused(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    monitor, began = two.databases.routers["orders"].monitor, Clock().monotonic()
    async with paused(postgres_cluster):
        with two.databases.scope():
            async with asyncio.timeout(30):
                while monitor.topology.nodes[0].asked_at < began:
                    await monitor.news(1.0)
            for value in range(1, 4):
                await two.write()
                async with two.orders.reader() as db:
                    assert (await db.execute(VALUE)).scalar() == value


async def test_a_transaction_of_ones_own_leaves_nothing_behind(two: Two) -> None:
    async def work() -> None:
        async with two.orders.primary.writer.begin() as connection:
            await connection.execute(SET)
        async with AsyncSession(two.orders.primary.writer) as session, session.begin():
            await session.execute(SET)

    with two.databases.scope():
        await work()
    with two.databases.scope():
        assert await two.port() in two.replicas


async def test_a_scope_that_asks_for_the_primary_keeps_it_after_a_commit(two: Two) -> None:
    with two.databases.scope(consistency="strong"):
        before = await two.port()
        await two.write()
        assert {before, await two.port()} == {two.primary}
    with two.databases.scope():
        assert await two.port() in two.replicas


async def test_what_a_task_of_the_scope_wrote_its_parent_reads(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            await asyncio.gather(two.write(), two.write())
            async with two.orders.reader() as db:
                assert (await db.execute(VALUE)).scalar() == 2


async def test_a_write_in_one_database_does_not_move_the_reads_of_another(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            await two.write()
            assert await two.port() == two.primary
            assert await two.port(two.points) in two.replicas


async def test_a_snapshot_sees_one_moment_and_plain_readers_see_each_their_own(two: Two) -> None:
    for snapshot in (True, False):
        with two.databases.scope(consistency="strong"):
            async with two.orders.reader(snapshot=snapshot) as db:
                before = (await db.execute(VALUE)).scalar()
                await two.write()
                assert ((await db.execute(VALUE)).scalar() == before) is snapshot


@pytest.mark.parametrize("has_read", [True, False], ids=["after a read", "unused"])
@pytest.mark.parametrize("look", WAYS_TO_READ)
async def test_a_reader_that_was_open_before_a_write_sees_it_however_it_reads(
    two: Two, postgres_cluster: PostgresCluster, look: Look, *, has_read: bool
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            async with two.orders.reader() as db:
                if has_read:
                    assert await look(db, VALUE) == 0
                await two.write()
                assert await look(db, VALUE) == 1
                assert await look(db, VALUE) == 1


async def test_a_reader_moves_within_a_transaction_that_its_user_has_begun(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            async with two.orders.reader() as db, db.begin():
                assert await db.scalar(VALUE) == 0
                await two.write()
                assert (await db.scalar(VALUE), await db.scalar(PORT)) == (1, two.primary)
    assert [node.in_use for node in two.orders.nodes] == [False] * len(two.orders.nodes)


async def test_a_snapshot_that_follows_one_which_was_ended_sees_what_was_written_between(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope():
            async with two.orders.reader(snapshot=True) as db:
                async with db.begin():
                    assert await db.scalar(VALUE) == 0
                    await two.write()
                    assert await db.scalar(VALUE) == 0
                assert await db.scalar(VALUE) == 1


async def test_a_writer_leaves_the_error_of_another_database_as_it_is(two: Two) -> None:
    with pytest.raises(NoPrimary) as raised:
        async with two.orders.writer():
            raise NoPrimary(two.points.name)
    assert raised.value.database == "points"


@pytest.mark.parametrize("which", ["another database", "another server", "its own"])
async def test_a_reader_holds_no_error_of_another_server_against_its_node(
    two: Two, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """A saga that a handler runs beside its reader raises it; a replica would be left out for that."""
    router, blamed = two.databases.routers["orders"], list[int]()
    monkeypatch.setattr(router, "failed", blamed.append)

    async def read() -> None:
        with two.databases.scope() as scope:
            async with two.orders.reader() as db:
                await db.execute(text("SELECT 1"))
                (index,) = scope.pinned.values()
                names = {"its own": router.nodes[index].name, "another database": "points", "another server": "c"}
                database = "points" if which == "another database" else "orders"
                raise DatabaseUnavailable(database, names[which], "it has gone")

    with pytest.raises(DatabaseUnavailable, match="it has gone"):
        await read()
    assert bool(blamed) is (which == "its own")


@pytest.mark.parametrize("inner", ["reader", "writer"])
@pytest.mark.parametrize("outer", ["reader", "writer"])
async def test_a_lost_connection_is_told_of_its_own_database_although_another_session_is_open_in_the_block(
    two: Two, postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch, outer: str, inner: str
) -> None:
    """The block of the inner session ends with the error first, as that of a handler's last dependency does."""
    router, blamed, suspected = two.databases.routers["orders"], list[int](), list[bool]()
    monkeypatch.setattr(router, "failed", blamed.append)
    monkeypatch.setattr(router.monitor, "suspect", lambda: suspected.append(True))
    servers = {server.port: server for server in (postgres_cluster.primary, *postgres_cluster.replicas)}

    async def use() -> None:
        async with getattr(two.points, outer)() as lost, getattr(two.orders, inner)() as db:
            await db.execute(text("SELECT 1"))
            port, backend = (await lost.execute(text("SELECT inet_server_port(), pg_backend_pid()"))).one()
            end = sql.SQL("SELECT pg_terminate_backend({}, 5000)").format(sql.Literal(backend))
            await asyncio.to_thread(servers[port].run, end)
            await lost.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable) as raised:
        await use()
    assert raised.value.database == "points"
    assert not blamed
    assert not suspected


async def test_a_refused_write_is_told_of_the_session_that_wrote(
    two: Two, postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a reader and a writer of one database in one block."""
    async with two.orders.writer() as db:
        await db.execute(text("CREATE TABLE bumps (n int)"))
        await db.execute(
            text("CREATE FUNCTION bump() RETURNS int AS 'INSERT INTO bumps VALUES (1) RETURNING n' LANGUAGE sql")
        )
    await asyncio.to_thread(postgres_cluster.catch_up)
    suspected = list[bool]()
    monkeypatch.setattr(two.databases.routers["orders"].monitor, "suspect", lambda: suspected.append(True))

    with pytest.raises(ReadOnlyNode):
        async with two.orders.reader(consistency="eventual") as reading, two.orders.writer():
            await reading.execute(text("SELECT bump()"))
    assert not suspected

    async def write() -> None:
        async with two.orders.writer() as db, two.orders.reader():
            await db.execute(text("SET TRANSACTION READ ONLY"))
            await db.execute(text("SELECT bump()"))

    with pytest.raises(DatabaseUnavailable, match="it is not the primary any more"):
        await write()
    assert suspected


async def test_a_full_pool_is_told_of_its_own_database(two: Two) -> None:
    narrow = SqlDatabase("narrow")
    pool = {"size": 1, "max_overflow": 0, "acquire_timeout": 0.1}
    url = two.points.primary.url.render_as_string(hide_password=False)
    settings = parse_settings({"databases": {"narrow": {"url": url, "pool": pool}}})
    async with Databases(narrow).open(settings), narrow.reader() as db:
        await db.execute(text("SELECT 1"))
        with pytest.raises(PoolExhausted) as raised:
            async with narrow.reader() as waiting, two.orders.reader():
                await waiting.execute(text("SELECT 1"))
    assert raised.value.database == "narrow"


async def test_a_job_sees_what_the_request_that_queued_it_wrote(
    two: Two, postgres_cluster: PostgresCluster
) -> None:
    async with paused(postgres_cluster):
        with two.databases.scope() as request:
            await two.write()
            await request.settle()
        with two.databases.scope(request.required):
            async with two.orders.reader() as db:
                assert (await db.execute(VALUE)).scalar() == 1
        with two.databases.scope():
            async with two.orders.reader() as db:
                assert (await db.execute(VALUE)).scalar() == 0


async def test_a_replica_that_has_gone_back_in_time_since_it_was_asked_is_not_read_from(
    postgres_cluster: PostgresCluster,
) -> None:
    """It was killed, and opens before it has replayed what it had, all between two questions of the monitor."""
    (primary, address, _), handle = postgres_cluster.urls("postgres"), SqlDatabase("orders")
    replica, databases = postgres_cluster.replicas[0], Databases(handle)
    # One answer must do for the whole test; connections are made anew each time.
    reads = {"wait": 0.0, "probe_interval": 3600.0, "max_lag": 3600.0}
    settings = parse_settings({"databases": {"orders": {"url": primary, "replicas": [address], "reads": reads}}})
    async with databases.open(settings):
        router = databases.routers["orders"]
        async with handle.writer() as db:
            await db.execute(text("DROP TABLE IF EXISTS past"))
            await db.execute(text("CREATE TABLE past (id INT)"))
        await asyncio.to_thread(replica.catch_up)
        with databases.scope() as scope:
            async with handle.writer() as db:
                await db.execute(text("INSERT INTO past VALUES (1)"))
            await asyncio.to_thread(replica.catch_up)
            await scope.settle()
            async with asyncio.timeout(60):
                while router.choose(scope, Wish()) is None:
                    await router.monitor.news(1.0)
            await asyncio.to_thread(replica.delay, 3600.0)
            await asyncio.to_thread(replica.kill)
            replica.start()  # in this thread, whose end would be its own
            async with handle.reader() as db:
                assert (await db.execute(text("SELECT count(*) FROM past"))).scalar() == 1


@pytest.mark.parametrize("look", [_by_statement, _in_a_transaction])
async def test_a_reader_whose_only_replica_has_just_died_is_answered_by_the_primary(
    postgres_cluster: PostgresCluster, look: Look
) -> None:
    (primary, address, _), handle = postgres_cluster.urls("postgres"), SqlDatabase("orders")
    databases = Databases(handle)
    reads = {"probe_interval": 3600.0, "max_lag": 3600.0}  # only the reader itself notices
    settings = parse_settings({"databases": {"orders": {"url": primary, "replicas": [address], "reads": reads}}})
    async with databases.open(settings):
        router = databases.routers["orders"]
        await until_replicas_are_known(router)
        with databases.scope():
            async with handle.reader() as db:
                assert (await db.execute(PORT)).scalar() == postgres_cluster.replicas[0].port
        await asyncio.to_thread(postgres_cluster.replicas[0].kill)
        for _ in range(3):
            with databases.scope():
                async with handle.reader() as db:
                    assert await look(db, PORT) == postgres_cluster.primary.port
        assert not any(node.in_use for node in handle.nodes)


async def test_concurrent_commits_share_the_question_where_the_primary_stands(two: Two) -> None:
    capture = two.databases.routers["orders"].capture
    asked = capture.asked

    async def person() -> None:
        with two.databases.scope() as scope:
            await two.write()
            await scope.settle()

    await asyncio.gather(*(person() for _ in range(5)))
    assert 1 <= capture.asked - asked <= 5
    several = [asyncio.create_task(capture.position()) for _ in range(50)]
    asked = capture.asked
    await asyncio.gather(*several)
    assert capture.asked - asked <= 2


async def test_nothing_is_asked_about_writes_that_nobody_follows_up(two: Two) -> None:
    capture = two.databases.routers["orders"].capture
    asked = capture.asked
    with two.databases.scope():
        for _ in range(3):
            await two.write()
    assert capture.asked == asked
