"""What a node says of its pools: the connections in use, and the callers that wait for one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from polysaga.config import DatabaseSettings, PoolSettings
from polysaga.databases import MongoNode, SqlNode
from polysaga.databases.lent_sessions import sql_session
from polysaga.databases.pools import PoolUse
from polysaga.errors import PoolExhausted
from tests.fixtures.waiting import until, within


def settings(url: str, **pool: float) -> DatabaseSettings:
    return DatabaseSettings(url=url, pool=PoolSettings(**{"size": 1, "max_overflow": 1, **pool}))


@pytest.fixture(params=["postgres_database", "mariadb_database", "sqlite"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    create: Callable[[], str] = request.getfixturevalue(request.param)
    return create()


@pytest.fixture
async def node(address: str) -> AsyncIterator[SqlNode]:
    one = SqlNode("shop", "primary", address, settings(address))
    yield one
    await one.close()


def use_of(node: SqlNode | MongoNode, name: str) -> PoolUse:
    (found,) = [use for use in node.pools if use.name == name]
    return found


async def test_a_pool_that_was_not_needed_is_left_out(node: SqlNode) -> None:
    assert node.pools == ()


async def test_a_pool_tells_what_is_lent_and_what_lies_ready(node: SqlNode) -> None:
    async with node.reader.connect() as first, node.reader.connect() as second:
        await first.execute(text("SELECT 1"))
        await second.execute(text("SELECT 1"))
        use = use_of(node, "reader")
        assert (use.size, use.max_overflow, use.in_use, use.idle, use.overflow) == (1, 1, 2, 0, 1)
    use = use_of(node, "reader")
    assert (use.in_use, use.idle, use.overflow) == (0, 1, 0)


async def test_a_caller_that_waits_is_counted_and_timed(node: SqlNode) -> None:
    async with node.reader.connect(), node.reader.connect():
        waiting = asyncio.create_task(connect(node))
        await until(lambda: use_of(node, "reader").waiting == 1, "the third caller waits")
        assert use_of(node, "reader").waits == 1
    await within(waiting, "the third caller has its connection")
    use = use_of(node, "reader")
    assert (use.waiting, use.waits) == (0, 1)
    assert use.waited is not None
    assert use.waited > 0


async def test_a_caller_that_finds_a_connection_is_not_counted(node: SqlNode) -> None:
    for _ in range(5):
        await connect(node)
    async with node.reader.connect():
        await connect(node)  # the overflow
        await connect(node)
    assert use_of(node, "reader").waits == 0


async def test_a_caller_that_gives_up_or_is_cancelled_waits_no_more(address: str) -> None:
    one = SqlNode("shop", "primary", address, settings(address, acquire_timeout=0.05, max_overflow=0))
    try:
        async with one.reader.connect():
            with pytest.raises(PoolExhausted):
                async with sql_session(one, read_only=True) as session:
                    await session.execute(text("SELECT 1"))
            assert use_of(one, "reader").waiting == 0
            waiting = asyncio.create_task(connect(one))
            await until(lambda: use_of(one, "reader").waiting == 1, "another caller waits")
            waiting.cancel()
            await asyncio.wait([waiting], timeout=10)
            use = use_of(one, "reader")
            assert (use.waiting, use.waits, use.in_use) == (0, 2, 1)
    finally:
        await one.close()


async def connect(node: SqlNode) -> None:
    async with node.reader.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def test_mongodb_tells_its_members_and_its_pools(mongo_database: Callable[[], str]) -> None:
    url = mongo_database()
    node = MongoNode("stock", "primary", url, settings(url, max_overflow=0))
    assert node.topology == ()
    assert node.pools == ()
    await node.ping()
    try:
        (member,) = node.topology
        assert (member.is_primary, member.failure) == (True, None)
        assert member.round_trip is not None
        assert member.address in url

        async def ask() -> None:
            await node.documents.notes.find_one({"_id": 1})

        await ask()
        (use,) = node.pools
        assert (use.name, use.size, use.waits, use.waited) == (member.address, 1, None, None)
        assert (use.in_use, use.idle, use.waiting) == (0, 1, 0)
        (server,) = node.client._topology._servers.values()
        async with server.pool.checkout():
            waiting = asyncio.create_task(ask())
            await until(lambda: node.pools[0].waiting == 1, "an operation waits for the only connection")
            assert node.pools[0].in_use == 1
        await within(waiting, "it is answered")
        (use,) = node.pools
        assert (use.in_use, use.waiting) == (0, 0)
    finally:
        await node.close()
