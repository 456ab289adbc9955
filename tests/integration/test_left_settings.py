"""A session leaves a setting with which its connection cannot use our tables: the connection is replaced."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from uuid import uuid4

import pytest
from psycopg import sql
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from devservers import PostgresServer
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, parse_settings
from polysaga.errors import SagaFailed
from polysaga.migrations import migrate
from tests.fixtures.servers import DatabaseFactory

orders, points = SqlDatabase("orders"), SqlDatabase("points")


class Order(BaseModel):
    item: str


buy = Saga("buy", input=Order, output=str)


@buy.step(orders)
async def store(db: AsyncSession, order: Order, ctx: StepContext) -> None:
    await db.execute(text("SELECT 1"))


@store.compensation
async def remove(db: AsyncSession, order: Order, done: None, ctx: StepContext) -> None: ...


@buy.step(points)
async def spend(db: AsyncSession, order: Order, ctx: StepContext) -> None: ...


@spend.compensation
async def give_back(db: AsyncSession, order: Order, done: None, ctx: StepContext) -> None: ...


@buy.step(points, kind="pivot")
async def sell(db: AsyncConnection, order: Order, ctx: StepContext) -> str:
    return order.item


sagas = Sagas(Databases(orders, points), buy, journal=orders)


@pytest.fixture
async def connected(postgres_database: DatabaseFactory) -> AsyncIterator[None]:
    pool = {"size": 1, "max_overflow": 0}
    databases = {handle.name: {"url": postgres_database(), "pool": pool} for handle in (orders, points)}
    async with sagas.databases.open(parse_settings({"databases": databases})):
        await migrate(sagas)
        yield


@pytest.fixture
async def program(connected: None) -> AsyncIterator[None]:
    async with sagas.open(SagaSettings()):
        yield


@pytest.mark.parametrize("database", [orders, points], ids=lambda handle: handle.name)
async def test_one_saga_at_most_fails_on_a_search_path_that_a_writer_has_left(
    program: None, database: SqlDatabase
) -> None:
    async with database.writer() as db:
        await db.execute(text("SET search_path TO nowhere"))
    with suppress(SagaFailed):
        await sagas.run(buy, Order(item="lantern"), timeout=30)
    assert await sagas.run(buy, Order(item="lamp"), timeout=30) == "lamp"
    async with database.writer() as db:
        assert await db.scalar(text("SHOW search_path")) == '"$user", public'


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[str]:
    """A role without any privilege."""
    name = f"guest_{uuid4().hex}"
    postgres_server.run(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    postgres_server.run(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("database", [orders, points], ids=lambda handle: handle.name)
async def test_one_saga_at_most_fails_on_a_role_that_a_writer_has_left(
    program: None, database: SqlDatabase, role: str
) -> None:
    async with database.writer() as db:
        await db.execute(text(f"SET ROLE {role}"))
    with suppress(SagaFailed):
        await sagas.run(buy, Order(item="lantern"), timeout=30)
    assert await sagas.run(buy, Order(item="lamp"), timeout=30) == "lamp"


async def test_a_writer_too_takes_such_a_connection_with_it(connected: None) -> None:
    async with orders.writer() as db:
        await db.execute(text("SET search_path TO nowhere"))
    with pytest.raises(DBAPIError, match="polysaga_ledger"):
        async with orders.writer() as db:
            await db.execute(text("SELECT 1 FROM polysaga_ledger"))
    async with orders.writer() as db:
        await db.execute(text("SELECT 1 FROM polysaga_ledger"))
