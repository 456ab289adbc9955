"""Results that are streamed: they end with their transaction, and a transaction does not end under a fetch."""

import asyncio
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult, AsyncSession

from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import SessionOver, SessionShared
from tests.conformance.shops import SqlShop, nothing_open
from tests.conformance.test_participant import cancelling, entry
from tests.conformance.test_shared_sessions import the_next_user_is_served
from tests.fixtures.waiting import until, within


def unread(test: Any) -> Any:
    """Allow *test* to leave a result before its end; two drivers warn of it."""
    for warning in ("Previous unbuffered result was left incomplete", "<psycopg.AsyncServerCursor .* still open"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


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


@pytest.mark.parametrize("snapshot", [False, True], ids=["plain", "snapshot"])
async def test_a_reader_streams_and_keeps_its_connection(sql_shop: SqlShop, snapshot: bool) -> None:
    """PostgreSQL has cursors in transactions only; readers have none until they stream."""
    node, used = sql_shop.node(connections=1), list[Any]()
    for _ in range(3):
        async with sql_session(node, read_only=True, snapshot=snapshot) as session:
            raw = await (await session.connection()).get_raw_connection()
            used.append(raw.driver_connection)
            assert await session.scalar(text("SELECT 1")) == 1
            counts = [await counted(await session.stream(text(numbers(sql_shop)))) for _ in range(2)]
            assert await session.scalar(text("SELECT 1")) == 1
        assert counts == [900, 900]
        await nothing_open(sql_shop)
    assert len({id(driver) for driver in used}) == 1


@unread
@pytest.mark.parametrize("ends", ["early", "by an error", "by its rollback", "by its commit"])
async def test_a_reader_that_ends_within_its_stream_leaves_no_transaction(sql_shop: SqlShop, ends: str) -> None:
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=True) as session:
            result = await session.stream(text(numbers(sql_shop)))
            await result.fetchone()
            if ends == "by its rollback":
                await session.rollback()
            elif ends == "by its commit":
                await session.commit()
            elif ends == "by an error":
                raise LookupError

    with pytest.raises(LookupError) if ends == "by an error" else nullcontext():
        await block()
    await nothing_open(sql_shop)
    async with sql_session(node, read_only=True) as session:
        with suppress(DBAPIError):
            await session.execute(text("SELECT * FROM nowhere"))
        assert await session.scalar(text("SELECT 1")) == 1, "it commits by itself again"


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
        with pytest.raises(SessionOver, match="'shop': the transaction that this result is streamed in"):
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
