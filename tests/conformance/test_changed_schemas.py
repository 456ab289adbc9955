"""A table that gets a column beside running processes costs them a retry at most, on whatever connections."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, Settings
from polysaga.databases import Fault
from polysaga.events import Event, StepFailed
from tests.conformance.shops import SqlShop, settings
from tests.fixtures.waiting import reached

_OFTEN = 8  # psycopg prepares a statement when it is sent for the sixth time
_CONNECTIONS = 3


@pytest.fixture
async def table(server_shop: SqlShop, item: str) -> AsyncIterator[str]:
    name = f"t{item}"
    await change(server_shop, f"CREATE TABLE {name} (n int)", f"INSERT INTO {name} VALUES (1)")
    yield name
    await change(server_shop, f"DROP TABLE {name}")


async def change(shop: SqlShop, *statements: str) -> None:
    async with shop.observer.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def read(db: Any, table: str) -> list[Any]:
    rows: list[Any] = (await db.execute(text(f"SELECT * FROM {table} WHERE n >= :n"), {"n": 1})).all()
    return rows


async def warmed(engine: Any, table: str) -> None:
    """Have every connection of *engine* prepare the statement."""
    here = asyncio.Barrier(_CONNECTIONS)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            for _ in range(_OFTEN):
                assert await read(session, table) == [(1,)]
            await session.commit()  # psycopg forgets its statements at a rollback
            await reached(here, "all connections are warm")

    await asyncio.gather(*(work() for _ in range(_CONNECTIONS)))


async def test_readers_notice_nothing(server_shop: SqlShop, table: str) -> None:
    node = server_shop.node(connections=_CONNECTIONS)
    await warmed(node.reader, table)

    await change(server_shop, f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")

    async def look() -> list[Any]:
        async with AsyncSession(node.reader) as session:
            return [await read(session, table) for _ in range(_OFTEN)]

    found = await asyncio.gather(*(look() for _ in range(2 * _CONNECTIONS)))
    assert found == [[[(1, 7)]] * _OFTEN] * (2 * _CONNECTIONS)


@pytest.mark.parametrize("kind", ["snapshots", "writer"])
async def test_a_transaction_fails_once_for_all_connections(server_shop: SqlShop, table: str, kind: str) -> None:
    node = server_shop.node(connections=_CONNECTIONS)
    await warmed(getattr(node, kind), table)

    await change(server_shop, f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")

    failures = []
    for _ in range(2 * _CONNECTIONS):
        async with AsyncSession(getattr(node, kind)) as session:
            try:
                assert await read(session, table) == [(1, 7)]
                await session.commit()
            except DBAPIError as error:
                failures.append(node.dialect.fault(error))
    on_postgres = node.dialect.name == "postgresql"
    assert failures == [Fault.STALE_PLAN] * on_postgres


async def test_a_writer_of_a_handle_is_told_to_try_again(server_shop: SqlShop, table: str) -> None:
    handle = SqlDatabase("shop")
    node = server_shop.node(connections=1)
    handle.attach((node,))
    for _ in range(_OFTEN):
        async with handle.writer() as db:
            await read(db, table)

    await change(server_shop, f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")

    if node.dialect.name == "postgresql":
        with pytest.raises(DBAPIError) as stale:
            async with handle.writer() as db:
                await read(db, table)
        assert node.dialect.fault(stale.value) is Fault.STALE_PLAN
    async with handle.writer() as db:
        assert await read(db, table) == [(1, 7)]


async def test_a_step_is_repeated(server_shop: SqlShop, table: str) -> None:
    handle = SqlDatabase("shop")
    saga = Saga("count-all", input=str, output=int)

    @saga.step(handle, kind="pivot")
    async def count(db: AsyncSession, name: str, ctx: StepContext) -> int:
        return len((await read(db, name))[0])

    databases = Databases(handle)
    sagas = Sagas(databases, saga, journal=handle)
    events: list[Event] = []
    known = settings(server_shop.url, connections=2)
    async with databases.open(Settings(databases={"shop": known})), sagas.open(SagaSettings(), emit=events.append):
        assert [await sagas.run(saga, table) for _ in range(2 * _OFTEN)] == [1] * 2 * _OFTEN
        await change(server_shop, f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")
        assert [await sagas.run(saga, table) for _ in range(2 * _OFTEN)] == [2] * 2 * _OFTEN
    assert len([event for event in events if isinstance(event, StepFailed)]) <= 1
