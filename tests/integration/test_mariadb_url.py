"""`mariadb+asyncmy://`, SQLAlchemy's own name for MariaDB, is as good as `mysql+asyncmy://`."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, parse_settings
from polysaga.errors import SagaFailed, WriteOnReader
from polysaga.migrations import migrate
from tests.fixtures.servers import DatabaseFactory

CREATE = text("CREATE TABLE clicks (what varchar(16))")
INSERT = text("INSERT INTO clicks VALUES ('once')")
COUNT = text("SELECT count(*) FROM clicks")


class Shop:
    def __init__(self) -> None:
        self.handle = SqlDatabase("shop")
        self.saga = Saga("click", input=str, output=int)

        @self.saga.step(self.handle)
        async def click(db: AsyncSession, statement: str, ctx: StepContext) -> None:
            await db.execute(INSERT)

        @click.compensation
        async def take_back(db: AsyncSession, statement: str, done: None, ctx: StepContext) -> None:
            await db.execute(text("DELETE FROM clicks"))

        @self.saga.step(self.handle, kind="pivot")
        async def do_more(db: AsyncSession, statement: str, ctx: StepContext) -> int:
            await db.execute(text(statement))
            return 7

        self.databases = Databases(self.handle)
        self.sagas = Sagas(self.databases, self.saga, journal=self.handle)


@pytest.fixture
async def shop(mariadb_database: DatabaseFactory) -> AsyncIterator[Shop]:
    shop = Shop()
    url = mariadb_database().replace("mysql+asyncmy://", "mariadb+asyncmy://")
    async with shop.databases.open(parse_settings({"databases": {"shop": {"url": url}}})):
        await migrate(shop.sagas)
        async with shop.handle.writer() as db:
            await db.execute(CREATE)
        async with shop.sagas.open(SagaSettings()):
            yield shop


async def test_sagas_run_and_readers_read(shop: Shop) -> None:
    assert await shop.sagas.run(shop.saga, "SELECT 1") == 7
    async with shop.handle.reader() as db:
        assert (await db.execute(COUNT)).scalar() == 1


async def test_a_reader_that_writes_is_refused(shop: Shop) -> None:
    async with shop.handle.reader() as db:
        with pytest.raises(WriteOnReader, match="INSERT"):
            await db.execute(INSERT)


async def test_a_statement_that_commits_implicitly_is_refused_in_a_step(shop: Shop) -> None:
    with pytest.raises(SagaFailed):
        await shop.sagas.run(shop.saga, "CREATE TABLE more (n int)")
    async with shop.handle.reader() as db:
        assert (await db.execute(COUNT)).scalar() == 0
