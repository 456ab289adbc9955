"""`innodb_rollback_on_timeout`: a lock timeout rolls the whole transaction back, and the session is not told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import MARIADB, MYSQL, LocalServer
from polysaga.databases import Fault
from tests.conformance import kinds
from tests.conformance.shops import SqlShop, furnish, opened
from tests.conformance.test_participant import entry, row_of

PRODUCTS = {"mariadb": (MARIADB, kinds.MARIADB), "mysql": (MYSQL, kinds.MYSQL)}


@pytest.fixture(params=PRODUCTS)
async def shop(request: pytest.FixtureRequest, started: Callable[..., LocalServer]) -> AsyncIterator[SqlShop]:
    product, kind = PRODUCTS[request.param]
    server = started(product, "--innodb-rollback-on-timeout=ON")
    server.create_database("shop")
    url = server.url("shop")
    await furnish(kind, url)
    async with opened(kind, url) as one:
        assert isinstance(one, SqlShop)
        yield one


async def swallowed(shop: SqlShop, session: AsyncSession, item: str) -> None:
    with suppress(DBAPIError):
        async with session.begin_nested():
            await shop.touch(session, item)


async def swallowed_inside(shop: SqlShop, session: AsyncSession, item: str) -> None:
    with suppress(DBAPIError):
        async with session.begin_nested():
            with suppress(DBAPIError):
                await shop.touch(session, item)
            await shop.sell(session, item)


async def swallowed_deep_inside(shop: SqlShop, session: AsyncSession, item: str) -> None:
    with suppress(DBAPIError):
        async with session.begin_nested():
            await shop.sell(session, item)
            await swallowed(shop, session, item)


async def swallowed_by_hand(shop: SqlShop, session: AsyncSession, item: str) -> None:
    await session.execute(text("SAVEPOINT mine"))
    with suppress(DBAPIError):
        await shop.touch(session, item)
    with suppress(DBAPIError):
        await session.execute(text("ROLLBACK TO SAVEPOINT mine"))


WAYS = [swallowed, swallowed_inside, swallowed_deep_inside, swallowed_by_hand]


async def test_a_lock_timeout_in_a_savepoint_does_not_commit_half_a_step(shop: SqlShop) -> None:
    await asyncio.gather(*(does_not_commit_half_a_step(shop, way) for way in WAYS))


async def does_not_commit_half_a_step(shop: SqlShop, way: Callable[..., Awaitable[None]]) -> None:
    participant, step, item = shop.participant(lock_timeout=1.0), entry(), way.__name__
    await shop.put_up(item)

    async def work(session: AsyncSession) -> str:
        await shop.sell(session, item)
        await way(shop, session, item)
        await shop.sell(session, item)
        return "null"

    async with shop.observer.begin() as other:
        await other.execute(text("UPDATE shelves SET touched = 9 WHERE name = :name"), {"name": item})
        with pytest.raises(DBAPIError) as raised:
            await participant.act(step, work)

    assert participant.fault(raised.value) is Fault.LOCK_TIMEOUT, item
    assert await shop.sold(item) == 0, item
    assert await row_of(participant, step) is None, item
