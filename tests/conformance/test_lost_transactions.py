"""A block whose transaction was rolled back under it commits nothing, and says so.

The code has swallowed the error. Deadlocks on MariaDB and MySQL are in `test_participant_mariadb.py`.
"""

from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import SqlNode
from polysaga.databases.handles import sql_session
from polysaga.errors import DatabaseUnavailable, TransactionLost
from tests.conformance.shops import SqlShop, nothing_open
from tests.fixtures.waiting import until


async def sell_twice(shop: SqlShop, session: AsyncSession, item: str) -> None:
    """Sell with a receipt that is known already; swallow the error."""
    with suppress(DBAPIError):
        await session.execute(text("INSERT INTO sales (receipt, item) VALUES ('known', :item)"), {"item": item})
        await session.execute(text("INSERT INTO sales (receipt, item) VALUES ('known', :item)"), {"item": item})
        raise AssertionError("the receipt was not known")


async def one_is_sold(shop: SqlShop, node: SqlNode, item: str) -> None:
    """Sell one in a new block: the connection that comes back is fit."""
    async with sql_session(node, read_only=False) as session:
        await shop.sell(session, item)
    assert await shop.sold(item) == 1
    await nothing_open(shop)


async def test_a_swallowed_error_loses_the_block_or_its_statement_alone(sql_shop: SqlShop, item: str) -> None:
    """PostgreSQL answers to COMMIT that it has rolled back; elsewhere the statement alone is undone."""
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sql_shop.sell(session, item)
            await sell_twice(sql_shop, session, f"{item}-known")

    if sql_shop.kind.scheme.startswith("postgresql"):
        with pytest.raises(TransactionLost, match="a block went on after an error"):
            await block()
        assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-known")) == (0, 0)
    else:
        await block()
        assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-known")) == (1, 1)
        async with sql_session(node, read_only=False) as session:
            await session.execute(text("DELETE FROM sales WHERE receipt = 'known'"))
    await one_is_sold(sql_shop, node, f"{item}-next")


async def test_a_savepoint_keeps_the_rest_of_the_block(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sql_shop.sell(session, item)
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("INSERT INTO nowhere VALUES (1)"))
    assert await sql_shop.sold(item) == 1
    await one_is_sold(sql_shop, node, f"{item}-next")


@pytest.mark.parametrize("goes_on", [False, True], ids=["and ends", "and sells another"])
async def test_a_block_that_sqlite_has_rolled_back_commits_nothing_by_itself(
    sqlite: SqlShop, item: str, goes_on: bool
) -> None:
    node = sqlite.node(connections=1)
    again = text("INSERT OR ROLLBACK INTO sales SELECT receipt, item FROM sales WHERE item = :item")

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            with suppress(DBAPIError):
                await session.execute(again, {"item": item})
            if goes_on:
                await sqlite.sell(session, item)

    with pytest.raises(TransactionLost):
        await block()
    assert await sqlite.sold(item) == 0
    await one_is_sold(sqlite, node, f"{item}-next")


@pytest.mark.parametrize(("ended", "error"), [(False, DatabaseUnavailable), (True, TransactionLost)])
async def test_a_block_does_not_end_well_whose_file_is_closed_under_it(
    sqlite: SqlShop, item: str, ended: bool, error: type[Exception]
) -> None:
    """While the thread ends it refuses the commit; afterwards aiosqlite would skip it without an error."""
    node = sqlite.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            node.abandon()
            if ended:
                await until(lambda: not node.dialect.in_transaction(driver), "the file is closed")

    with pytest.raises(error):
        await block()
    assert await sqlite.sold(item) == 0
