"""Results that are streamed: they end with their transaction, and a transaction does not end under a fetch."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult, AsyncSession

from polysaga.databases.handles import sql_session
from polysaga.errors import SessionOver, SessionShared
from tests.conformance.shops import SqlShop
from tests.conformance.test_participant import cancelling, entry
from tests.conformance.test_shared_sessions import the_next_user_is_served
from tests.fixtures.waiting import until, within

unread = pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")


def numbers(shop: SqlShop, *, slow_after: int | None = None, rows: int = 900) -> str:
    """Return a query for numbers; the server waits a moment before each that is greater than *slow_after*."""
    wide = "'" + "x" * 2_000 + "'"  # so that a driver reads them in more than one piece
    if shop.kind.scheme.startswith("postgresql"):
        pause = "" if slow_after is None else f", CASE WHEN n > {slow_after} THEN pg_sleep(0.1) END"
        return f"SELECT n, {wide} {pause} FROM generate_series(1, {rows}) AS n"
    pause = "" if slow_after is None else f", CASE WHEN n > {slow_after} THEN sleep(0.1) END"
    counted_up = f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows})"
    return f"{counted_up} SELECT n, {wide} {pause} FROM c"


async def counted(result: AsyncResult[Any]) -> int:
    return len([row async for row in result])


async def test_a_result_is_streamed_to_its_end(any_shop: SqlShop, item: str) -> None:
    participant, counts = any_shop.participant(connections=1), []

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        await any_shop.sell(lent, item)
        counts.extend([await counted(await lent.stream(text(numbers(any_shop)))) for _ in range(2)])
        await any_shop.sell(lent, item)
        return "null"

    await participant.act(entry(), work)
    assert counts == [900, 900]
    assert await any_shop.sold(item) == 2


@unread
@cancelling
@pytest.mark.parametrize("step", [False, True], ids=["block", "step"])
async def test_a_result_that_outlives_its_transaction_reads_nothing_in_that_of_another(
    server_shop: SqlShop, item: str, step: bool
) -> None:
    participant, kept = server_shop.participant(connections=1), list[AsyncResult[Any]]()
    node = participant.node

    async def begin(session: AsyncSession) -> str:
        result = await session.stream(text(numbers(server_shop)))
        await result.fetchone()
        kept.append(result)
        return "null"

    if step:
        await participant.act(entry(), begin)
    else:
        async with sql_session(node, read_only=False) as session:
            await begin(session)

    async with sql_session(node, read_only=False) as session:
        await server_shop.sell(session, item)
        with pytest.raises(SessionOver, match="'shop'"):
            await counted(kept[0])
        await server_shop.sell(session, item)
    assert await server_shop.sold(item) == 2
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@unread
@cancelling
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
async def test_a_transaction_that_ends_under_a_fetch_leaves_nothing_in_the_pool(
    server_shop: SqlShop, item: str, fails: bool
) -> None:
    node, seen, left = server_shop.node(connections=1), list[int](), list[asyncio.Task[None]]()

    async def read(session: AsyncSession) -> None:
        async for number, *_ in await session.stream(text(numbers(server_shop, slow_after=50, rows=70))):
            seen.append(number)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            raw = await (await session.connection()).get_raw_connection()
            lock = node.dialect.statement_lock(raw.dbapi_connection)
            left.append(asyncio.ensure_future(read(session)))

            async def is_fetching() -> bool:
                return len(seen) > 0 and lock.locked()

            await until(is_fetching, "the task waits for further rows")
            if fails:
                raise LookupError

    with pytest.raises(LookupError if fails else SessionShared):
        await within(block(), "the block ends", patience=10.0)
    (end,) = await within(asyncio.gather(*left, return_exceptions=True), "the task that reads ends")

    assert isinstance(end, Exception)
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")
