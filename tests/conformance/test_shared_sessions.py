"""A session that is ended while another task is inside a statement on it: an error, and a clean pool."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases.handles import sql_session
from polysaga.errors import SessionShared
from tests.conformance.shops import Sale, SqlShop, nothing_open, turns
from tests.conformance.test_participant import cancelling
from tests.fixtures.waiting import within

Ending = Callable[[AsyncSession], Awaitable[Any]]


class Left:
    """Tasks that a block leaves behind."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    async def behind(self, work: Awaitable[Any]) -> None:
        """Return when *work* is inside its statement."""
        self.tasks.append(asyncio.ensure_future(work))
        await turns(30)

    async def ends(self) -> list[Any]:
        return await within(asyncio.gather(*self.tasks, return_exceptions=True), "the tasks left behind end")


def slow(shop: SqlShop, session: AsyncSession) -> Awaitable[Any]:
    # MariaDB's server ends it before it looks whether the client is gone.
    pause = "SELECT pg_sleep(60)" if shop.kind.scheme.startswith("postgresql") else "SELECT sleep(2)"
    return session.execute(text(pause))


def pages(shop: SqlShop, session: AsyncSession, item: str) -> Awaitable[Any]:
    """Return a statement that takes many turns of the event loop on every kind."""
    rows = [{"receipt": uuid.uuid4().hex, "item": item} for _ in range(200)]
    many = insert(Sale) if shop.kind.mysql else insert(Sale).returning(Sale.receipt)
    return session.execute(many, rows, execution_options={"insertmanyvalues_page_size": 1})


async def the_next_user_is_served(shop: SqlShop, node: Any, item: str) -> None:
    for sold in (1, 2):
        async with sql_session(node, read_only=False) as session:
            await shop.sell(session, item)
        assert await shop.sold(item) == sold
    await nothing_open(shop)


@cancelling
async def test_a_block_that_ends_under_a_statement_commits_nothing_and_raises(
    server_shop: SqlShop, item: str
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            await left.behind(slow(server_shop, session))
            await left.behind(server_shop.sell(session, item))  # waits for the first

    with pytest.raises(SessionShared, match="await every task"):
        await within(block(), "the block ends")
    ends = await left.ends()

    assert [isinstance(end, Exception) for end in ends] == [True, True]
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
async def test_the_others_of_a_failed_gather_leave_nothing_in_the_pool(server_shop: SqlShop, item: str) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def fail() -> None:
        await turns(30)
        raise LookupError

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            left.tasks.append(asyncio.ensure_future(slow(server_shop, session)))
            await asyncio.gather(fail(), left.tasks[0])

    with pytest.raises(LookupError):
        await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


async def _rollback(session: AsyncSession) -> None:
    await session.rollback()


async def _close(session: AsyncSession) -> None:
    await session.close()


@cancelling
@pytest.mark.parametrize("end", [_rollback, _close])
async def test_a_session_may_be_used_on_after_its_statement_was_given_up(
    server_shop: SqlShop, item: str, end: Ending
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            await left.behind(slow(server_shop, session))
            await end(session)
            await server_shop.sell(session, f"{item}-again")

    await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    assert await server_shop.sold(f"{item}-again") == 1
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
@pytest.mark.parametrize("begun", [False, True], ids=["commit", "begin"])
async def test_a_commit_within_the_block_is_refused_as_well(server_shop: SqlShop, item: str, begun: bool) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            if begun:
                async with session.begin():
                    await server_shop.sell(session, item)
                    await left.behind(slow(server_shop, session))
            else:
                await server_shop.sell(session, item)
                await left.behind(slow(server_shop, session))
                await session.commit()

    with pytest.raises(SessionShared):
        await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
async def test_a_reader_that_ends_under_a_statement_leaves_nothing_in_the_pool(
    server_shop: SqlShop, item: str
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=True) as session:
            await session.execute(text("SELECT 1"))
            await left.behind(slow(server_shop, session))

    with suppress(SessionShared):
        await within(block(), "the block ends")
    assert isinstance((await left.ends())[0], Exception)

    async with sql_session(node, read_only=True) as session:
        assert (await session.execute(text("SELECT 7"))).scalar() == 7
    await nothing_open(server_shop)


@cancelling
async def test_what_a_statement_writes_page_by_page_is_committed_whole_or_not_at_all(
    sql_shop: SqlShop, item: str
) -> None:
    node = sql_shop.node(connections=1)
    for rounds in range(12):
        left, sold = Left(), f"{item[:20]}-{rounds}"

        async def block() -> None:
            async with sql_session(node, read_only=False) as session:
                await sql_shop.sell(session, f"{sold}-own")  # noqa: B023 - run before the next round
                left.tasks.append(asyncio.ensure_future(pages(sql_shop, session, sold)))  # noqa: B023
                await turns(rounds)  # noqa: B023

        with suppress(Exception):
            await within(block(), "the block ends")
        own, paged = await sql_shop.sold(f"{sold}-own"), await sql_shop.sold(sold)
        await left.ends()

        assert paged in {0, 200}
        assert own or not paged
        assert await sql_shop.sold(sold) == paged
        await the_next_user_is_served(sql_shop, node, f"{sold}-next")


@cancelling
async def test_a_task_that_goes_on_writing_is_refused_while_the_block_ends(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)
    for rounds in range(20):
        left, sold = Left(), f"{item[:20]}-{rounds}"

        async def go_on(session: AsyncSession) -> None:
            for _ in range(100):
                await turns(1 + rounds % 7)  # noqa: B023 - run before the next round
                with suppress(Exception):
                    await sql_shop.sell(session, sold)  # noqa: B023

        async def block() -> None:
            async with sql_session(node, read_only=False) as session:
                await sql_shop.sell(session, f"{sold}-own")  # noqa: B023
                left.tasks.append(asyncio.ensure_future(go_on(session)))  # noqa: B023
                await turns(rounds)  # noqa: B023

        with suppress(Exception):
            await within(block(), "the block ends")
        own, others = await sql_shop.sold(f"{sold}-own"), await sql_shop.sold(sold)
        await left.ends()

        assert own or not others
        assert await sql_shop.sold(sold) == others
        await the_next_user_is_served(sql_shop, node, f"{sold}-next")
