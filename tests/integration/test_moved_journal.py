"""A program whose journal is suddenly in another database: it would not know what it has done."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings
from polysaga.errors import ConfigurationError
from polysaga.migrations import migrate
from polysaga.sagas.process.drain import Drain
from tests.fixtures.tiers import Uses
from tests.fixtures.waiting import until
from tests.integration.migrating import SQL_KINDS, fresh, settings_for, sqlite_url

LONG_AGO = {"sqlite": "'2020-01-01T00:00:00.000'", "postgresql": "'2020-01-01'", "mysql": "'2020-01-01'"}


@pytest.fixture(params=SQL_KINDS, ids=str)
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    kind: Uses = request.param
    return lambda: fresh(kind, request, tmp_path)


def program(*names: str, name: str = "buy") -> tuple[Sagas, Saga[int, int]]:
    """Return a program with its journal in the first of the databases *names*, and its saga."""
    handles = [SqlDatabase(one) for one in names]
    return shop(Databases(*handles), handles[0], name)


def shop(
    databases: Databases, home: SqlDatabase, name: str = "buy", *, depot: SqlDatabase | None = None
) -> tuple[Sagas, Saga[int, int]]:
    """Return sagas with a step and their journal in *home*, and perhaps a step in *depot*; and the saga."""
    saga = Saga(name, input=int, output=int)

    @saga.step(home, kind="pivot")
    async def pay(db: AsyncSession, value: int, ctx: StepContext) -> int:
        return value

    if depot is not None:

        @saga.step(depot, kind="retriable")
        async def pack(db: AsyncSession, value: int, ctx: StepContext) -> None: ...

    return Sagas(databases, saga, journal=home), saga


async def test_sagas_do_not_open_beside_a_journal_that_knows_more(fresh_url: Callable[[], str]) -> None:
    settings = settings_for(shop=fresh_url(), stock=fresh_url())
    former, buy = program("shop", "stock")
    async with former.databases.open(settings):
        await migrate(former)
        async with former.open():
            assert await former.run(buy, 3, key="k-1", timeout=30) == 3
    moved, _ = program("stock", "shop")
    other, _ = program("stock", "shop", name="sell")
    async with moved.databases.open(settings), other.databases.open(settings):
        await migrate(moved)
        with pytest.raises(ConfigurationError, match="database 'shop' has a journal with sagas of this program"):
            async with moved.open():
                pass
        async with other.open():
            pass  # it knows none of these sagas: the journal is another program's
        former_home = next(handle for handle in moved.databases if handle.name == "shop")
        async with former_home.writer() as db:
            assert isinstance(db, AsyncSession)
            await db.execute(
                text(f"UPDATE polysaga_journal SET finished_at = {LONG_AGO[former_home.primary.dialect.name]}")
            )
        async with moved.open():
            pass  # it has forgotten its keys, as retention would
    async with former.databases.open(settings), former.open():
        pass  # what the migration left in the other database is no reason


async def test_a_former_journal_is_found_also_if_a_busy_program_shares_it(tmp_path: Path) -> None:
    settings = settings_for(shop=sqlite_url(tmp_path), stock=sqlite_url(tmp_path))
    former, buy = program("shop", "stock")
    async with former.databases.open(settings):
        await migrate(former)
        async with former.open():
            await former.run(buy, 3, timeout=30)
        async with former.journal.writer() as db:
            assert isinstance(db, AsyncSession)
            await db.execute(text(NEWER_SAGAS_OF_ANOTHER_PROGRAM))
    moved, _ = program("stock", "shop")
    async with moved.databases.open(settings):
        await migrate(moved)
        with pytest.raises(ConfigurationError, match="database 'shop' has a journal with sagas of this program"):
            async with moved.open():
                pass


NEWER_SAGAS_OF_ANOTHER_PROGRAM = """
    WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 2000)
    INSERT INTO polysaga_journal
        (id, name, version, fingerprint, input, input_hash, status, epoch, results, created_at, finished_at)
    SELECT number, 'sell', 1, '', input, input_hash, status, epoch, results, '9000-01-01T00:00:00.000', finished_at
    FROM polysaga_journal, numbers
"""


async def test_two_handles_on_one_database_have_one_journal(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    settings = settings_for(shop=url, reports=url)
    sagas, buy = program("shop", "reports")
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open():
            await sagas.run(buy, 3, timeout=30)
        async with sagas.open():
            assert await sagas.run(buy, 4, timeout=30) == 4


async def test_each_part_of_a_program_has_its_journal_and_its_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one part for each country: sagas of one name, in one `Databases`."""
    north, south, depot = SqlDatabase("north"), SqlDatabase("south"), SqlDatabase("depot")
    databases = Databases(north, south, depot)
    in_north, buy = shop(databases, north)
    in_south, buy_there = shop(databases, south, depot=depot)
    async with databases.open(settings_for(**{one.name: sqlite_url(tmp_path) for one in databases})):
        await migrate(in_north)
        await migrate(in_south)
        with monkeypatch.context() as patched:
            patched.setattr(Drain, "drain", stand_still)
            async with in_south.open():
                await in_south.run(buy_there, 3, timeout=30)
                async with depot.writer() as db:
                    started = await in_south.start(buy_there, 3, tx=db)
        async with in_north.open():  # the sagas of the other part are no reason to refuse it
            await in_north.run(buy, 3, timeout=30)
        assert (await in_north.verify(SagaSettings(lease=0.0001))).clean  # the start is none of its own
        async with in_south.open():
            await until(lambda: is_known(in_south, started.id), "the start is in the journal of its part")


async def stand_still(drain: Drain) -> bool:
    return False


async def is_known(sagas: Sagas, saga_id: UUID) -> bool:
    return any(saga.id == saga_id for saga in (await sagas.find()).sagas)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_journal_of_another_tenant_is_no_former_one(
    postgres_database: Callable[[], str], driver: str
) -> None:
    """A tenant with a schema of its own may have the schema of all in its search path."""
    urls = [f"postgresql+{driver}://{postgres_database().partition('://')[2]}" for _ in range(2)]
    of_all, buy = program("shop", "stock")
    async with of_all.databases.open(settings_for(shop=urls[0], stock=urls[1])):
        await migrate(of_all)
        async with of_all.open():
            await of_all.run(buy, 3, timeout=30)
        for handle in of_all.databases:
            async with handle.writer() as db:
                assert isinstance(db, AsyncSession)
                await db.execute(text("CREATE SCHEMA tenant"))
    tenants, _ = program("shop", "stock")
    shop_url, stock_url = (f"{url}?options=-csearch_path%3Dtenant,public" for url in urls)
    async with tenants.databases.open(settings_for(shop=stock_url, stock=shop_url)):
        await migrate(tenants)
        async with tenants.open():
            pass
