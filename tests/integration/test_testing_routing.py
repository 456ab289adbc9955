"""What the tests of users can ask about routing, without a replica."""

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
from polysaga.errors import SessionOver, WriteOnReader
from polysaga.testing import assert_routed, simulated_lag
from tests.fixtures.tiers import Uses

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
    server: Server = request.getfixturevalue(kind.fixtures[0])
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


def test_a_test_can_ask_who_answered() -> None:
    answer = SimpleNamespace(
        headers={"X-Polysaga-Route": "orders=replica-1;reason=fresh, points=primary;reason=strong"}
    )
    assert_routed(answer, orders="replica", points="primary")
    with pytest.raises(AssertionError, match="'orders' was read from replica-1, not from a primary"):
        assert_routed(answer, orders="primary")
    with pytest.raises(AssertionError, match="'stock' was read from nowhere"):
        assert_routed(answer, stock="replica")
