"""What the tests of users can ask about routing, without a replica."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import column, delete, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import Server
from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.errors import DatabaseUnavailable, SessionOver, WriteOnReader
from polysaga.testing import assert_routed, simulated_lag
from tests.fixtures.tiers import Uses
from tests.fixtures.waiting import until, within

ORDERS = table("orders", column("id"))
KINDS = [Uses("sqlite"), Uses("postgres", ("postgres_server",)), Uses("mariadb", ("mariadb_server",))]


async def test_readers_are_behind_unless_their_scope_wrote(tmp_path: Path) -> None:
    orders = SqlDatabase("orders")
    databases = Databases(orders)
    url = f"sqlite+aiosqlite:///{tmp_path}/orders.db"

    async def count(**wish: str) -> object:
        async with orders.reader(**wish) as db:  # type: ignore[arg-type]
            return (await db.execute(text("SELECT count(*) FROM orders"))).scalar()

    async def write() -> None:
        async with orders.writer() as db:
            await db.execute(text("INSERT INTO orders VALUES (1)"))

    async with databases.open(parse_settings({"databases": {"orders": {"url": url}}})):
        async with orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (id INT)"))
        async with simulated_lag(orders):
            with databases.scope():
                await write()
                assert await count() == 1
                assert await count(consistency="eventual") == 0
            with databases.scope():
                assert await count() == 0
                assert await count(consistency="strong") == 1
        with databases.scope():
            assert await count() == 1


@pytest.fixture(params=KINDS, ids=str)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    kind: Uses = request.param
    if not kind.fixtures:
        yield f"sqlite+aiosqlite:///{tmp_path}/orders.db"
        return
    yield from _database(request.getfixturevalue(kind.fixtures[0]))


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    yield from _database(postgres_server)


@pytest.fixture
def mariadb_url(mariadb_server: Server) -> Iterator[str]:
    yield from _database(mariadb_server)


def _database(server: Server) -> Iterator[str]:
    name = f"test_lag_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@asynccontextmanager
async def lagging(url: str) -> AsyncIterator[SqlDatabase]:
    """Lend a database with a table of one row, and another row that its readers do not see."""
    orders = SqlDatabase("orders")
    databases = Databases(orders)
    async with databases.open(parse_settings({"databases": {"orders": {"url": url}}})):
        async with orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (id INT)"))
            await db.execute(text("INSERT INTO orders VALUES (1)"))
        async with simulated_lag(orders):
            with databases.scope():
                async with orders.writer() as db:
                    await db.execute(text("INSERT INTO orders VALUES (2)"))
            with databases.scope():
                yield orders


async def ids(db: AsyncSession) -> list[int]:
    return [row[0] for row in await db.execute(text("SELECT id FROM orders ORDER BY id"))]


async def test_a_reader_that_is_behind_refuses_writes(url: str) -> None:
    async with lagging(url) as orders:
        async with orders.reader() as db:
            for statement in (text("INSERT INTO orders VALUES (3)"), delete(ORDERS)):
                with pytest.raises(WriteOnReader):
                    await db.execute(statement)
            assert await ids(db) == [1]
        async with orders.writer() as db:  # no reader holds a lock
            assert await ids(db) == [1, 2]


async def test_a_reader_that_is_behind_ends_with_its_block(url: str) -> None:
    async with lagging(url) as orders:
        async with orders.reader() as db:
            assert await ids(db) == [1]
        with pytest.raises(SessionOver):
            await ids(db)


async def test_no_end_of_a_reader_ends_the_lag(url: str) -> None:
    async with lagging(url) as orders:
        async with orders.reader() as outer, orders.reader() as inner:
            assert await ids(outer) == await ids(inner) == [1]
            await inner.rollback()
            assert await ids(outer) == await ids(inner) == [1]
            await outer.commit()
            assert await ids(outer) == await ids(inner) == [1]
        with pytest.raises(DBAPIError):
            async with orders.reader() as db:
                await db.execute(text("SELECT id FROM no_such_table"))
        async with orders.reader() as db:
            assert await ids(db) == [1]


async def test_a_statement_that_fails_harms_no_reader_beside_it(url: str) -> None:
    async with lagging(url) as orders, orders.reader() as one, orders.reader() as other:
        assert await ids(one) == [1]
        with pytest.raises(DBAPIError):
            await other.execute(text("SELECT id FROM no_such_table"))
        assert await ids(one) == [1]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_reader_that_is_behind_streams_beside_others(postgres_url: str, driver: str) -> None:
    async with lagging(postgres_url.replace("+asyncpg", f"+{driver}")) as orders, orders.reader() as db:
        numbers = await db.stream(text("SELECT generate_series(1, 500)"), execution_options={"yield_per": 10})
        assert await numbers.fetchone() is not None
        assert await within(asyncio.gather(*[_read(orders) for _ in range(8)]), "all have read") == [[1]] * 8
        assert len([row async for row in numbers]) == 499


async def test_a_reader_that_is_cancelled_ends_the_lag_of_no_other_on_postgresql(postgres_url: str) -> None:
    async with lagging(postgres_url) as orders:
        await _cancel_within(
            orders, "SELECT pg_sleep(60)", "SELECT count(*) FROM pg_stat_activity WHERE query = :statement"
        )
        assert await _read(orders) == [1]


async def test_a_reader_that_is_cancelled_ends_the_lag_of_mariadb_and_says_so(mariadb_url: str) -> None:
    async with lagging(mariadb_url) as orders:
        running = "SELECT count(*) FROM information_schema.processlist WHERE info = :statement"
        await _cancel_within(orders, "SELECT sleep(60)", running)
        with pytest.raises(DatabaseUnavailable, match="begin `simulated_lag` anew"):
            await _read(orders)
    assert await _read_anew(mariadb_url) == [1, 2]


async def _read(orders: SqlDatabase) -> list[int]:
    async with orders.reader() as db:
        return await ids(db)


async def _read_anew(url: str) -> list[int]:
    orders = SqlDatabase("orders")
    async with Databases(orders).open(parse_settings({"databases": {"orders": {"url": url}}})):
        return await _read(orders)


async def _cancel_within(orders: SqlDatabase, statement: str, running: str) -> None:
    """Cancel a reader while the server executes its *statement*; *running* counts those that do."""

    async def read() -> None:
        async with orders.reader() as db:
            await db.execute(text(statement))

    async def is_running() -> bool:
        async with orders.reader(consistency="strong") as db:
            return bool(await db.scalar(text(running), {"statement": statement}))

    reading = asyncio.create_task(read())
    await until(is_running, "the statement is executed", watching=[reading])
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(reading, "the reader has ended")


def test_a_test_can_ask_who_answered() -> None:
    answer = SimpleNamespace(
        headers={"X-Polysaga-Route": "orders=replica-1;reason=fresh, points=primary;reason=strong"}
    )
    assert_routed(answer, orders="replica", points="primary")
    with pytest.raises(AssertionError, match="'orders' was read from replica-1, not from a primary"):
        assert_routed(answer, orders="primary")
    with pytest.raises(AssertionError, match="'stock' was read from nowhere"):
        assert_routed(answer, stock="replica")
